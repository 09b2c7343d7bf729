"""Command line: `sanorm VERB --flag=value`, or `python -m sanorm_jax VERB`."""

import runpy
import sys

import sanorm_jax

# Each verb is a module with its own flags, imported only when the verb is used.
VERBS = {
    "prepare": "sanorm_jax.data.prepare",
    "verify": "sanorm_jax.data.verify",
    "fetch-weights": "sanorm_jax.feature_extraction.fetch_weights",
    "extract": "sanorm_jax.feature_extraction.extract",
    "train": "sanorm_jax.main",
    "evaluate": "sanorm_jax.command_line.evaluate",
    "segment": "sanorm_jax.command_line.segment",
    "report": "sanorm_jax.command_line.report",
    "status": "sanorm_jax.command_line.status",
    "bands": "sanorm_jax.command_line.bands",
    "publish": "sanorm_jax.command_line.publish",
    "models": "sanorm_jax.command_line.models",
    "check": "sanorm_jax.command_line.check",
    "study": "sanorm_jax.study",
    "paper": "sanorm_jax.paper",
}
_USAGE = f"usage: sanorm VERB --flag=value ...; a VERB is {', '.join(VERBS)}"


def main():
    """Run the module of the verb with the remaining arguments as its flags."""
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    if verb in ("-h", "--help"):
        sys.stdout.write(f"{_USAGE}; sanorm VERB --help lists its flags\n")
        return
    if verb == "--version":
        sys.stdout.write(f"sanorm_jax {sanorm_jax.__version__}\n")
        return
    if verb not in VERBS:
        sys.stderr.write(f"error: no verb {verb!r}; {_USAGE}\n")
        sys.exit(2)
    sys.argv = [f"sanorm {verb}", *sys.argv[2:]]
    runpy.run_module(VERBS[verb], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
