"""`spectralgpt view`: a local web page to look at scenes, maps and models."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from spectralgpt.cli.images import DEVICE, add_format_options
from spectralgpt.cli.options import CHECKPOINT, add_options

HELP = (
    "Serve a web page, to this machine alone, that shows scenes, maps, what a model "
    "rebuilds, and places that look alike."
)


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "paths",
        type=Path,
        nargs="+",
        help="scenes, maps, rasters that `spectralgpt embed --format geotiff` made, "
        "and at most one run folder, which is the model",
    )
    add_options(
        parser,
        model=(
            str,
            f"pretrained or fine-tuned checkpoint: {CHECKPOINT}; or a size for random "
            "weights",
        ),
        port=(int, 8765, "of the page; 0 takes any free one"),
    )
    parser.add_argument(
        "--no_open", action="store_true", help="open no browser, print the address"
    )
    add_format_options(parser)
    add_options(parser, **DEVICE)


def run(args: Namespace) -> str:
    """Serve the page until interrupted; returns that it has ended."""
    import webbrowser

    from spectralgpt.cli.images import format_of
    from spectralgpt.errors import require
    from spectralgpt.scenes.loading import load_on_device
    from spectralgpt.viewer import (
        Viewer,
        ViewModel,
        open_sources,
        serving,
        take_models,
    )

    require("starlette", "uvicorn")
    name, paths = take_models(args.paths, args.model)
    model = None
    if name is not None:
        loaded = load_on_device(name, args.device, args.sensor)
        model = ViewModel(loaded, name, args.batch_size)
    contract = None if model is None else model.contract
    sources = open_sources(paths, format_of(args), contract)
    viewer = Viewer(sources, model)
    with serving(viewer, args.port) as page:
        names = ", ".join(viewer.names.values())
        print(f"{page.url} shows {names}. Ctrl-C ends it.", flush=True)
        if not args.no_open:
            webbrowser.open(page.url)
        page.run()
    return "ended"
