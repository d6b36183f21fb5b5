"""`keras-apinet card`."""

import argparse
from pathlib import Path

from keras_apinet.cli.options import add_options
from keras_apinet.errors import APINetError, printable, reason

HELP = "write a Markdown model card from an evaluated run"
STARTS_KERAS = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the run, the split, the license and the output options."""
    add_options(parser, "run_folder")
    parser.add_argument(
        "--split",
        help="split to report (default: test, or val if only val was evaluated)",
    )
    parser.add_argument("--license", metavar="NAME", help="license of the model (SPDX)")
    parser.add_argument(
        "--out", metavar="FILE", help="output file (default: RUN/MODEL_CARD.md)"
    )
    parser.add_argument(
        "--push",
        metavar="OWNER/NAME",
        help="also upload the card and its model to a Hugging Face Hub repository, "
        "created if needed; requires network access",
    )
    add_options(parser, "--force")


def run(args: argparse.Namespace) -> int:
    """Writes the model card."""
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
    """Uploads a card, as `README.md`, and its model to the Hugging Face Hub.

    Creates the repository `OWNER/NAME` if needed. Credentials come from
    `hf auth login` or the variable `HF_TOKEN`. Returns the URL of the repository.
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
    except Exception as error:  # its HTTP library raises many types
        raise APINetError(
            f"The card was written to {str(card)!r}, but uploading it to "
            f"{repository!r} failed ({reason(error)}); check the name OWNER/NAME, the "
            "network, and `hf auth whoami`."
        ) from error
    return str(page)
