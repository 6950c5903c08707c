"""The `molquery` command. Commands load when they are called, so `--help` costs little."""

from __future__ import annotations

import gc
import importlib
import os
import random
import signal
import sys
import time
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from molquery import __version__
from molquery.cli.streams import open_streams
from molquery.errors import ConflictError, MolqueryError

#: command -> (module, one line of help). The modules are imported only when a command runs.
COMMANDS = {
    "init": ("init", "Create a database."),
    "ingest": ("ingest", "Take slides, profiles or metadata into the database."),
    "align": ("align", "Learn a shared space from the pairs of slide and profile."),
    "adapt": ("adapt", "Adapt the space to an unseen cohort with a few of its pairs."),
    "project": ("project", "Compute the prediction weights of slides that have none yet."),
    "index": ("index", "Build, list or check FAISS indexes."),
    "search": ("search", "Rank slides by the predicted activity of a gene set."),
    "retrieve": ("retrieve", "Find the slides or profiles nearest to a slide or profile."),
    "score": ("score", "Score every slide for every gene set of a file."),
    "stratify": ("stratify", "Split a cohort by the predicted activity of a gene set."),
    "report": ("report", "Write a page that answers one question, with figures and tests."),
    "figure": ("figure", "Draw one figure of a report as PNG, SVG or PDF."),
    "heatmap": ("heatmap", "Paint predicted activity over the H&E image of a slide."),
    "explain": ("explain", "Say what a slide's score is made of."),
    "evaluate": ("evaluate", "Print how well held-out patients are retrieved and predicted."),
    "genesets": ("genesets", "List, show, check or register gene sets."),
    "export": ("export", "Write the database to Parquet and .h5ad."),
    "info": ("info", "Say what the database holds."),
    "history": ("history", "List the versions of the database, or give one a tag."),
    "restore": ("restore", "Make the database what it was at an earlier version."),
    "delete": ("delete", "Delete slides or profiles and what is derived from them."),
    "compact": ("compact", "Give space back: fewer files, fewer old versions."),
    "snapshot": ("snapshot", "Copy the database to a directory or object store, checked."),
    "doctor": ("doctor", "Examine the installation and the database; repair what is derived."),
    "demo": ("demo", "Build a database from the example cohort and ask it a question."),
}


#: Commands that read nothing but the database and gene sets, so that they never need pandas. The
#: one that may be given a file calls `pandas_now` then.
READS_ONLY = {"search", "retrieve", "score", "stratify", "evaluate", "info"}


class _PandasLater:
    """Keeps pyarrow from importing pandas, if it is installed, while Lance is imported.

    pyarrow asks for pandas whenever it makes a scalar (its pandas shim), and Lance makes one when
    it is imported; that costs a third of a search. Once Lance is there, pandas can be imported.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """A pandas that cannot be imported, until Lance has been; all else is left alone."""
        waiting = not hasattr(sys.modules.get("lance"), "LanceDataset")
        loader: Any = self  # importlib.abc, which would say so, takes 10 ms to import
        return ModuleSpec(name, loader) if name == "pandas" and waiting else None

    def create_module(self, spec: ModuleSpec) -> None:
        """The default module."""

    def exec_module(self, module: ModuleType) -> None:
        """Refuse, as if pandas were not installed."""
        raise ImportError("pandas is not needed yet")


def pandas_now() -> None:
    """Let pandas be imported without Lance: for what is written or computed with it."""
    sys.meta_path[:] = [f for f in sys.meta_path if not isinstance(f, _PandasLater)]


class LazyGroup(click.Group):
    """A group that knows its commands' names and help without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Command names in the order in which they are used."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import a command's module."""
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"molquery.cli.{COMMANDS[name][0]}")
        command: click.Command = getattr(module, name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click, with the nearest command suggested for a typo."""
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"No such command {name!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


class _Place(click.ParamType[Any]):
    """A path of this machine, or a URI as it is."""

    name = "place"

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """A `Path`, which would take a slash off a URI, or the text of the URI."""
        return value if "://" in str(value) else Path(value)


PLACE = _Place()

EPILOG = """\b
Example:
  molquery demo
  molquery --db archive.mq search --geneset HALLMARK_INTERFERON_GAMMA_RESPONSE -k 10
"""


@click.command(
    cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option(
    "--db",
    envvar="MOLQUERY_DB",
    metavar="PATH|URI",
    type=PLACE,
    help="The database: a directory, or s3://BUCKET/PATH (or set MOLQUERY_DB).",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__)
@click.pass_context
def cli(ctx: click.Context, db: Path | str | None, debug: bool) -> None:
    """Ask an archive of H&E slides a molecular question.

    Scores are predicted from H&E. For research use only.
    """
    ctx.obj = {"db": db, "debug": debug}


#: How often a command is run that others come before: what it read is gone, or was changed.
_TRIES = 3


def _despite_others() -> Any:
    """Run the command; again, if nothing came of it because others changed what it works on."""
    for tries in range(1, _TRIES + 1):
        try:
            return cli.main(standalone_mode=False)
        except ConflictError as error:
            if tries == _TRIES:
                raise
            what = f"molquery: {error.what}; it is run again ({tries + 1} of {_TRIES})"
            click.echo(what, err=True)
            time.sleep(tries * random.uniform(0.1, 1.0))
    return None


def _unraisable(report: Any) -> None:
    """A Ctrl-C that came where Python can raise nothing (in a weak reference's callback, say).

    Python prints it and goes on; it is sent again a moment later, when it can be acted on.
    """
    if not issubclass(report.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(report)
        return
    import threading

    again = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT))
    again.daemon = True
    again.start()


def main() -> None:
    """The program: the command line, in a process of its own."""
    sys.unraisablehook = _unraisable
    try:
        run()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is said and done
        gc.freeze()  # Python would look through everything once more before it ends: 40 ms


def run() -> None:
    """Run the command line: exit 0, 1 for an error of the user, 2 for wrong usage."""
    open_streams()
    debug = "--debug" in sys.argv
    os.environ.setdefault("LANCE_LOG", "error")  # its warnings are not for users
    # A query's matrices are small: more threads cost more to start than they save, and the same
    # bits come out on any machine. `align` spreads its folds over the processors itself.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if READS_ONLY.intersection(sys.argv[1:]):
        sys.meta_path.insert(0, _PandasLater())
    try:
        code = _despite_others()
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(1)
    except MolqueryError as error:
        if debug:
            raise
        click.echo(f"molquery: {error}", err=True)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("molquery: interrupted; the database is whole", err=True)
        sys.exit(130)
    except SystemExit:
        # click ends with status 1 when the pipe is closed, and marks stdout so.
        if type(sys.stdout).__name__.endswith("PacifyFlushWrapper"):
            sys.exit(0)
        raise
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
