"""`keras-apinet card`."""

import argparse
from pathlib import Path

from keras_apinet.cli.options import add_options
from keras_apinet.errors import APINetError, printable, reason

HELP = "write a Markdown model card from an evaluated run"
STARTS_KERAS = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the run, the split, the license and where to write."""
    add_options(parser, "run_folder")
    parser.add_argument(
        "--split",
        help="split to report (default: test, or val if only that was evaluated)",
    )
    parser.add_argument("--license", metavar="NAME", help="license of the model (SPDX)")
    parser.add_argument(
        "--out", metavar="FILE", help="where to write (default: RUN/MODEL_CARD.md)"
    )
    parser.add_argument(
        "--push",
        metavar="OWNER/NAME",
        help="also upload the card and the model that it is of to a model repository "
        "of the Hugging Face hub, which is made if needed; it asks the network",
    )
    add_options(parser, "--force")


def run(args: argparse.Namespace) -> int:
    """Writes the card."""
    from keras_apinet.evaluate.pages import evaluation_of, write_card
    from keras_apinet.runs import Run

    path = write_card(
        args.run_folder,
        args.out,
        split=args.split,
        license_name=args.license,
        force=args.force,
    )
    print(printable(path))
    if args.push:
        which = evaluation_of(Run.open(args.run_folder), args.split)["model"]
        model = Path(args.run_folder, f"{which}.keras")
        print(printable(push_card(path, model, args.push)))
    return 0


def push_card(card: str | Path, model: str | Path, repository: str) -> str:
    """Uploads a card, as `README.md`, and its model to the Hugging Face hub.

    The repository `OWNER/NAME` is made if there is none. What says who may write there
    is what `hf auth login` left, or the variable `HF_TOKEN`. Returns the page.
    """
    from keras_apinet.evaluate.pages import need

    need("huggingface_hub")
    import huggingface_hub as hub

    files = {"README.md": Path(card), Path(model).name: Path(model)}
    add = hub.CommitOperationAdd
    try:
        api = hub.HfApi()
        page = api.create_repo(repository, exist_ok=True)
        api.create_commit(
            repository,
            [add(path_in_repo=name, path_or_fileobj=at) for name, at in files.items()],
            commit_message="Model and card",
        )
    except Exception as error:  # its HTTP library has many of its own
        raise APINetError(
            f"The card was written to {str(card)!r}, but {repository!r} cannot be "
            f"pushed to ({reason(error)}); check the name OWNER/NAME, the network, and "
            "`hf auth whoami`."
        ) from error
    return str(page)
