"""The demo's report: what each picture shows, and what it does not prove."""

from pathlib import Path

from spectralgpt.demo.comparison import comparison_sections, mean_and_range
from spectralgpt.demo.findings import Findings
from spectralgpt.reports.curves import plot_curves, read_metrics
from spectralgpt.reports.html import Picture, Section, write_report
from spectralgpt.reports.maps import plot_class_map, plot_embedding_map
from spectralgpt.reports.pretraining import READING, describe_fillers, scores_table
from spectralgpt.reports.reconstructions import plot_reconstruction, plot_spectra

__all__ = ["write_demo_report"]


def write_demo_report(path: Path, found: Findings) -> Path:
    """Write the report; returns its path."""
    sections = [
        _imagery_section(found),
        _training_section(found),
        _rebuilt_section(found),
        _embedding_section(found),
        _cluster_section(found),
        *comparison_sections(found),
        _limits_section(found),
    ]
    return write_report(
        path,
        "SpectralGPT: a first run",
        sections,
        summary="A small masked autoencoder was pretrained on "
        f"{found.imagery.title}, on this machine, without labels: parts of each crop "
        "were hidden, and it learned to rebuild them from what it could still see, in "
        "space and along the spectrum.",
        facts=_facts(found),
    )


def _facts(found: Findings) -> list[tuple[str, str]]:
    series = read_metrics(found.run / "metrics.csv")
    steps = series["loss"][0][-1]
    images = steps * found.config.trainer.batch_size
    facts = [(f"{images:,}", f"crops seen in {steps:,} optimizer steps")]
    model, others = found.scores["model"], dict(found.scores)
    for name in ("model", "images"):
        others.pop(name, None)
    ratio = model / min(others.values())
    facts.append((f"{ratio:.2f}", "times the held-out error of the best simple filler"))
    if found.compared:
        ours, untrained = (mean_and_range(e, "probe") for e in found.compared[:2])
        facts.append((ours[0], "accuracy of a linear probe on the frozen encoder"))
        facts.append((untrained[0], f"the same with random weights ({untrained[1]})"))
    return facts


def _imagery_section(found: Findings) -> Section:
    imagery, labels = found.imagery, found.labels
    if labels is None:
        height, width = found.pixels.shape[1:]
        text = (
            f"{len(imagery.items)} images of {imagery.root}. The maps below show "
            f"{imagery.strips[0].item.name}, {height} x {width} px of it. Part of the "
            "imagery is held out of training, and rebuilt below; the map may show "
            "both."
        )
        return Section("The imagery", text)
    figure = plot_class_map(
        found.picture,
        labels.classes,
        labels.class_names,
        title="labelled cells",
        pixel_width_m=imagery.pixel_width_m,
        dashed_rows=found.borders,
    )
    text = (
        "Farmland, forest, tidal marsh, a lagoon and a barrier beach on the coast of "
        "Virginia: a cloud-free Sentinel-2 scene of 2015 or 2016, 12 of its 13 bands "
        "(the cirrus band sees no ground). Five patches of BigEarthNet from four "
        "European countries are trained on too; a sixth, under snow, is left out. "
        "Everything ships with the package; "
        "contains modified Copernicus Sentinel data 2015/2016 and 2017/2018.\n\n"
        "The strip between the dashed lines is held out: training never draws a crop "
        "from it, nor is the range that pixels are scaled by measured on it."
    )
    caption = (
        "Right: cells of 8 x 8 pixels whose land cover is known. The developers drew "
        "them by looking at pictures of this scene; nobody was on the ground, and only "
        "places that looked certain were labelled. Training does not use them."
    )
    alt = "The scene in true colour, beside a map of the cells with known land cover."
    return Section("The imagery", text, [Picture(figure, alt, caption)])


def _training_section(found: Findings) -> Section:
    series = read_metrics(found.run / "metrics.csv")
    names = ("loss", "token_loss", "spectral_loss", "masked_error")
    curves = Picture(
        plot_curves(series, names),
        "Curves of the loss, its two terms and the held-out error over training steps.",
        "The loss is the sum of the token term (hidden tokens, value by value) and the "
        "spectral term (sums over the spectrum). The held-out error is measured on the "
        "part that is not trained on. Thin lines are single steps.",
    )
    text = (
        f"{describe_fillers(found.scores)} All fill the same hidden pixels, "
        f"{found.config.masking.ratio:.0%} of each held-out crop.\n\n"
        "What this does not prove: rebuilding pixels is a pretext. Whether the model "
        "learned something useful is asked further below."
    )
    return Section("Pretraining", text, [curves], [scores_table(found.scores)])


def _rebuilt_section(found: Findings) -> Section:
    pictures = [
        Picture(
            plot_reconstruction(crop, found.stretch),
            f"{crop.name}: input, visible part, rebuilt image and error, in rows of "
            "true colour, false colour and one short-wave infrared band.",
        )
        for crop in found.crops
    ]
    spectra = Picture(
        plot_spectra(found.crops[0]),
        f"Measured and rebuilt spectra of four pixels of {found.crops[0].name}.",
        "Four pixels of the first crop, from dark to bright. Open circles were "
        "hidden from the model; the rebuilt spectrum is drawn where it had to predict.",
    )
    text = (
        f"{READING}\n\nThese are the crops with the most contrast, the hardest ones. "
        "A model trained for minutes gets large shapes and the colour of what is near, "
        "and blurs fine detail. A rebuilt picture that looks right is a guess that "
        "fits, not a measurement: do not use it to fill gaps in data."
    )
    return Section("Held-out parts, rebuilt", text, [*pictures, spectra])


def _embedding_section(found: Findings) -> Section:
    figure = plot_embedding_map(
        found.picture,
        [("pretrained", found.cells), ("random weights", found.random_cells)],
    )
    text = (
        "Each 8 x 8 px cell has an embedding, a list of "
        f"{found.cells.shape[-1]} numbers. Here the three directions in which "
        "embeddings vary most are shown as red, green and blue; the colours have no "
        "meaning of their own, only likeness counts. Random weights also give a map, "
        "because any mixing of the bands keeps what the bands show: a pretty map alone "
        "proves nothing. Squares in a map are the windows that the encoder saw at "
        "once: an embedding also holds what surrounds its cell."
    )
    alt = "The scene in true colour, beside its embeddings as colours, from the "
    alt += "pretrained encoder and from one with random weights."
    return Section("A map of embeddings", text, [Picture(figure, alt)])


def _cluster_section(found: Findings) -> Section:
    clusters = found.clusters
    figure = plot_class_map(
        found.picture,
        clusters.index,
        clusters.names,
        title="clusters of embeddings",
        pixel_width_m=found.imagery.pixel_width_m,
        dashed_rows=found.borders,
    )
    naming = (
        "by the known land cover found most often in it"
        if found.labels
        else "by its median vegetation index (NDVI)"
    )
    text = (
        f"k-means put the embeddings into {len(clusters.names)} groups, without "
        f"labels. Each group was named afterwards {naming}; the number of groups was "
        "chosen by us, and another number would cut differently."
    )
    alt = "The scene in true colour, beside a map of clusters: " + "; ".join(
        clusters.names
    )
    return Section("Clusters", text, [Picture(figure, alt)])


def _limits_section(found: Findings) -> Section:
    shipped = found.labels is not None
    data = "" if shipped else f" --data {found.imagery.root}"
    text = (
        "One small model, one scene, minutes of training: the figures say that the "
        "parts work together, not how good a fully trained model is. Nothing here was "
        "tested in another place or season.\n\n"
        f"The model is in {found.run.name}/checkpoints/model beside this report, and "
        f"{found.run.name}/report.html tells more of its training. Seed "
        f"{found.config.seed}; how far training gets in the given time depends on the "
        f"machine. Repeat with: spectralgpt demo{data} --seed {found.config.seed}"
    )
    if shipped:
        text += " Sources and licences of the imagery: demo_data/ATTRIBUTION.md."
    return Section("What this does not prove", text)
