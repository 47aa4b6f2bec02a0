"""Contrastive objectives, held to what the published code gives."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from spectralgpt import objectives
from spectralgpt.building import build_model, model_config
from spectralgpt.errors import CheckpointError, ConfigError, ShapeError
from spectralgpt.models.heads import ClassificationModel
from spectralgpt.objectives.moco import MomentumContrast, contrast, momentum_at
from spectralgpt.objectives.simclr import nt_xent
from spectralgpt.training.optim import (
    OptimizerConfig,
    build_optimizer,
    learning_rate_at,
)
from tests.objectives.test_autoencoders import SYSTEMS, needs_golden, read

SMALL = {
    "image_size": 32,
    "num_bands": 5,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 4,
}
KINDS = {
    "v1": ("moco", {"version": "v1", "queue_size": 24, "dim": 16}),
    "v2": ("moco", {"version": "v2", "queue_size": 24, "dim": 16}),
    "v3": ("moco", {"version": "v3", "hidden_dim": 32, "dim": 16}),
    "simclr": ("simclr", {"dim": 16}),
}


class Body(nn.Module):
    """The encoder that the golden numbers were made with."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(20, 12)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(self.body(x))


def state(name: str) -> dict[str, Tensor]:
    return load_file(SYSTEMS / f"{name}.safetensors")


def assert_close(found: Tensor, wanted: Tensor, share: float = 1e-5) -> None:
    wanted = wanted.reshape(found.shape)
    apart = float((found - wanted).detach().abs().max())
    # What is zero up to round-off has no size to measure by.
    assert apart <= share * float(wanted.detach().abs().max()) + 1e-9


def published_gradients(model: objectives.Objective) -> dict[str, Tensor]:
    own = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return model.published_names(own)


def tiny(kind: str, **settings: object) -> objectives.Objective:
    torch.manual_seed(0)
    name, own = KINDS[kind]
    return objectives.build(name, **SMALL | own | settings)


@needs_golden
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_four_steps_with_a_queue_are_the_published_ones(version: str) -> None:
    golden = read(f"moco_{version}")
    model = MomentumContrast(Body(), 12, version, dim=8, queue_size=12, momentum=0.99)
    model.load_published_state_dict(state(f"moco_{version}_state"))
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=0.03, momentum=0.9, weight_decay=1e-4)
    for n in range(4):
        model.begin_step(n / 4)
        out = model.compare_views(golden[f"s{n}_im_q"], golden[f"s{n}_im_k"])
        assert_close(out.prediction, golden[f"s{n}_logits"])
        assert_close(out.loss, golden[f"s{n}_loss"])
        optimizer.zero_grad()
        out.loss.backward()
        gradients = published_gradients(model)
        assert len(gradients) == len(learned)
        for name, gradient in gradients.items():
            wanted = golden[f"s{n}_grad_q.{name.removeprefix('encoder_q.')}"]
            assert_close(gradient, wanted, 1e-4)
        weights = model.published_names(model.state_dict())
        for name in (n for n in weights if n.startswith("encoder_k.")):
            wanted = golden[f"s{n}_key.{name.removeprefix('encoder_k.')}"]
            assert_close(weights[name], wanted)
        assert_close(weights["queue"], golden[f"s{n}_queue_after"])
        assert int(weights["queue_ptr"]) == int(golden[f"s{n}_ptr_after"])
        optimizer.step()
    for name, value in model.published_names(model.state_dict()).items():
        if name.startswith("encoder_q."):
            assert_close(value, golden[f"final_q.{name.removeprefix('encoder_q.')}"])


@needs_golden
@pytest.mark.parametrize("heads", ["vit", "resnet"])
def test_a_step_without_queue_is_the_published_one(heads: str) -> None:
    golden = read(f"moco_v3_{heads}")
    temperature = float(golden["T"])
    model = MomentumContrast(
        Body(), 12, "v3", dim=8, hidden_dim=16, temperature=temperature, heads=heads
    )
    model.load_published_state_dict(state(f"moco_v3_{heads}_state"))
    model.begin_step(0.0)
    out = model.compare_views(golden["x1"], golden["x2"])
    assert_close(out.loss, golden["loss"])
    out.loss.backward()
    gradients = published_gradients(model)
    wanted = state(f"moco_v3_{heads}_grads")
    assert gradients.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert_close(gradients[name], gradient, 1e-4)
    after = model.published_names(model.state_dict())
    for name, value in state(f"moco_v3_{heads}_after").items():
        torch.testing.assert_close(after[name], value, rtol=1e-5, atol=1e-7)
    anew = MomentumContrast(
        Body(), 12, "v3", dim=8, hidden_dim=16, temperature=temperature, heads=heads
    )
    anew.load_published_state_dict(state(f"moco_v3_{heads}_state"))
    anew.begin_step(0.0)
    for view in ("1", "2"):
        assert_close(anew.queries(golden[f"x{view}"]), golden[f"q{view}"])
        assert_close(anew.keys(golden[f"x{view}"]), golden[f"k{view}"])


@needs_golden
@pytest.mark.parametrize("temperature", [1.0, 0.2, 0.07])
def test_contrast_is_the_published_one(temperature: float) -> None:
    golden = read("moco_v3_loss")
    q = golden["q"].requires_grad_()
    loss = contrast(q, golden["k"], temperature)
    assert_close(loss, golden[f"loss_T{temperature}"])
    loss.backward()
    assert_close(q.grad, golden[f"grad_q_T{temperature}"], 1e-4)


@needs_golden
@pytest.mark.parametrize("case", ["T1.0", "T0.5", "T0.1", "T1.0_nonorm"])
def test_nt_xent_is_half_of_what_the_published_code_gives(case: str) -> None:
    golden = read("simclr")
    temperature = float(case.removeprefix("T").removesuffix("_nonorm"))
    normalize = not case.endswith("_nonorm")
    hidden = golden["hidden"].requires_grad_()
    loss = nt_xent(hidden, temperature, normalize, published=True)
    assert_close(loss, golden[f"loss_{case}"])
    loss.backward()
    assert_close(hidden.grad, golden[f"grad_{case}"], 1e-4)
    paper = nt_xent(hidden.detach(), temperature, normalize)
    assert_close(2 * paper, golden[f"loss_{case}"])


@needs_golden
def test_lars_makes_the_published_steps() -> None:
    golden = read("moco_v3_lars")
    parts = nn.ParameterDict({name: nn.Parameter(golden[f"{name}0"]) for name in "wbz"})
    config = OptimizerConfig(algorithm="lars", weight_decay=0.01)
    optimizer = build_optimizer(parts, config)
    for step in range(3):
        for n, name in enumerate("wbz"):
            parts[name].grad = golden[f"g{step}_{n}"].clone()
        for group in optimizer.param_groups:
            group["lr"] = 0.6
        optimizer.step()
        for n, name in enumerate("wbz"):
            assert_close(parts[name], golden[f"after{step}_{n}"])


@needs_golden
def test_schedules_are_the_published_ones() -> None:
    found = json.loads((SYSTEMS / "schedules.json").read_text())
    by_name = {name.split(":")[0]: rows for name, rows in found.items()}
    rates = {
        "moco_v2 lr 0.03, 200 epochs, cosine": (0.03, 0, 200),
        "moco_v3 lr base 0.6 x 4096/256, warmup 10, epochs 100": (9.6, 10, 100),
    }
    for name, (lr, warmup, epochs) in rates.items():
        for epoch, rate in by_name[name]:
            own = learning_rate_at(
                epoch, lr=lr, min_lr=0, warmup_epochs=warmup, epochs=epochs
            )
            assert own == pytest.approx(rate, rel=1e-5)
    for epoch, momentum in by_name["moco_v3 momentum 0.99, epochs 100"]:
        assert momentum_at(epoch / 100, 0.99) == pytest.approx(momentum, rel=1e-9)
    # SimCLR counts steps, one more than there are.
    for name, rows in json.loads((SYSTEMS / "simclr_lr.json").read_text()).items():
        lr = 0.3 * 2 if "linear" in name else 0.075 * 512**0.5
        for step, rate in rows:
            own = learning_rate_at(
                step, lr=lr, min_lr=0, warmup_epochs=1000, epochs=10_001
            )
            assert own == pytest.approx(rate, rel=1e-5, abs=1e-7)


def image_set(count: int, bands: int = 5, apart: float = 1.0) -> Tensor:
    """Smooth images, each with bands of its own brightness."""
    generator = torch.Generator().manual_seed(1)
    level = torch.rand(count, bands, 1, 1, generator=generator)
    coarse = torch.rand(count, bands, 6, 6, generator=generator)
    coarse = apart * level + (1.3 - apart) * coarse
    return nn.functional.interpolate(coarse, (32, 32), mode="bicubic")


def train(model: objectives.Objective, images: Tensor, steps: int = 40) -> list[float]:
    optimizer = build_optimizer(model, OptimizerConfig(weight_decay=0.0))
    generator = torch.Generator().manual_seed(2)
    losses = []
    for step in range(steps):
        rows = torch.randperm(72, generator=generator)[:12]
        noise = torch.rand(12, model.noise_size(images), generator=generator)
        model.begin_step(step / steps)
        loss = model(images[rows], None, noise).loss
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 5e-4
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("kind", KINDS)
def test_loss_falls_and_what_is_learned_serves_tasks(kind: str) -> None:
    if kind == "simclr":
        model = tiny(kind)
        losses = train(model, image_set(72, apart=0.3))
    else:
        # In so few steps the slower encoder would not move by the usual momentum.
        views = {"brightness": 0.1, "min_scale": 0.3}
        model = tiny(kind, views=views, momentum=0.9)
        losses = train(model, image_set(72))
    # At first the queue holds random keys, which are told apart more easily.
    assert sum(losses[-10:]) < 0.9 * sum(losses[2:12])
    again = build_model(json.loads(json.dumps(model_config(model))))
    again.load_state_dict(model.state_dict())
    images, noise = image_set(4), torch.rand(4, model.noise_size(image_set(1)))
    found, wanted = (each.eval()(images, None, noise) for each in (again, model))
    assert torch.equal(found.loss, wanted.loss)
    classifier = ClassificationModel(again.encoder, 3)
    assert classifier(images).shape == (4, 3)
    assert torch.equal(model.encoder(images), again.encoder(images))


@pytest.mark.parametrize("kind", KINDS)
def test_scoring_changes_no_state(kind: str) -> None:
    model = tiny(kind).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(image_set(3), None)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    model.train()(image_set(4), None)
    assert any(not torch.equal(v, before[n]) for n, v in model.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_slower_weights_take_no_gradient_and_no_step(kind: str) -> None:
    model = tiny(kind)
    model(image_set(4), None).loss.backward()
    for name, parameter in model.named_parameters():
        is_fixed = "momentum" in name or ".positions." in name
        is_fixed |= kind == "v3" and name.startswith("encoder.embedding")
        is_fixed |= name == "projector.7.bias"  # SimCLR's last norm does not shift.
        assert parameter.requires_grad != is_fixed, name
        assert (parameter.grad is not None) != is_fixed, name


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_gives_about_the_loss(kind: str) -> None:
    model, images = tiny(kind).eval(), image_set(8)
    noise = torch.rand(8, model.noise_size(images))
    with torch.no_grad():
        wanted = model(images, None, noise).loss
        with torch.autocast("cpu", torch.bfloat16):
            half = model(images, None, noise).loss
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(float(wanted), rel=0.05)


def test_a_queue_says_how_much_of_it_is_keys() -> None:
    model, filled = tiny("v2"), []
    for _ in range(4):
        filled.append(float(model(image_set(12), None).terms["queue_filled"]))
    assert filled == [0, 0.5, 1, 1]


def test_published_names_of_a_vision_transformer_are_taken() -> None:
    model, other = tiny("v3"), tiny("v3")
    weights = model.published_names(model.state_dict())
    assert weights["base_encoder.patch_embed.proj.weight"].shape == (32, 5, 8, 8)
    assert weights["momentum_encoder.pos_embed"].shape == (1, 17, 32)
    nn.init.normal_(other.encoder.class_token)
    other.load_published_state_dict({f"module.{n}": v for n, v in weights.items()})
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    del weights["predictor.0.weight"]
    with pytest.raises(CheckpointError, match=r"missing predictor\.0\.weight"):
        other.load_published_state_dict(weights)


def test_a_mistake_is_named() -> None:
    with pytest.raises(ConfigError, match="queue_size is 24, no multiple of the 5"):
        tiny("v2")(image_set(5), None)
    with pytest.raises(ConfigError, match="tells images of a batch apart"):
        tiny("simclr").check_batch(1)
    with pytest.raises(ConfigError, match="queue_size is set, but MoCo v3"):
        tiny("v3", queue_size=8)
    with pytest.raises(ConfigError, match="'version' must be v1 or v2 or v3"):
        tiny("v3", version="v4")
    with pytest.raises(ConfigError, match="temperature is 0"):
        tiny("simclr", temperature=0)
    with pytest.raises(ConfigError, match="unknown key 'hue'"):
        tiny("v3", views={"hue": 0.1})
    with pytest.raises(ConfigError, match=r"views\.min_scale is 0"):
        tiny("v3", views={"min_scale": 0})
    with pytest.raises(ConfigError, match="hides nothing"):
        tiny("v3")(image_set(4), 0.75)
    with pytest.raises(ShapeError, match="have 4 bands, the model 5"):
        tiny("v3")(image_set(4, 4), None)
    with pytest.raises(ShapeError, match="first views stacked"):
        nt_xent(torch.rand(3, 8))
