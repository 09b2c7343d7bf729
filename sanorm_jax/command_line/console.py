"""The command `sanorm`: `sanorm VERB --flag=value`, what `python -m` runs by a verb."""

import runpy
import sys

# Module and flags that a verb stands for.
VERBS = {
    "prepare": ("sanorm_jax.data.prepare",),
    "verify": ("sanorm_jax.data.verify",),
    "fetch-weights": ("sanorm_jax.feature_extraction.fetch_weights",),
    "extract": ("sanorm_jax.feature_extraction.extract",),
    "train": ("sanorm_jax.main", "--mode=train"),
    "evaluate": ("sanorm_jax.main", "--mode=evaluate"),
    "segment": ("sanorm_jax.main", "--mode=segment"),
    "report": ("sanorm_jax.main", "--mode=report"),
    "status": ("sanorm_jax.main", "--mode=status"),
    "study": ("sanorm_jax.study",),
    "paper": ("sanorm_jax.paper",),
}
_USAGE = f"usage: sanorm VERB --flag=value ...; a VERB is {', '.join(VERBS)}"


def main():
    """Run the module of the verb with the flags that follow it."""
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    if verb in ("-h", "--help"):
        sys.stdout.write(f"{_USAGE}; sanorm VERB --help tells its flags\n")
        return
    if verb == "--version":
        from sanorm_jax import __version__

        sys.stdout.write(f"sanorm_jax {__version__}\n")
        return
    if verb not in VERBS:
        sys.stderr.write(f"error: no verb {verb!r}; {_USAGE}\n")
        sys.exit(2)
    module, *given = VERBS[verb]
    sys.argv = [f"sanorm {verb}", *given, *sys.argv[2:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
