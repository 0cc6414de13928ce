"""The `oneslice` command. Imports the chosen role's commands only, so that help is quick."""

import os
import sys
from importlib import import_module

ROLES = {
    "hospital": ("client.cli", "Register scans, paint slices, take part in federations."),
    "coordinator": ("server.cli", "See and report on federations."),
    "simulate": ("simulations.cli", "Run many hospitals on one machine."),
}

HELP = """Usage: oneslice ROLE COMMAND [OPTIONS]

One annotated slice per scan, at every hospital; one segmenter for all of them; no scan leaves the
building.

Roles:
{roles}

`oneslice ROLE --help` lists a role's commands."""


def main() -> None:
    """Hands over to the role named first."""
    # Read when torch is loaded, here and in every process started from here. By default a thread
    # that waits for another turns 300,000 times: beside a program that uses one of two cores, the
    # demo took more than three times as long as with 1,000, which cost 7 % when nothing else ran.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        roles = "\n".join(f"  {role:<12} {text}" for role, (_, text) in ROLES.items())
        print(HELP.format(roles=roles))
        return
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"oneslice {version('oneslice')}")
        return
    if arguments[0] not in ROLES:
        print(f"oneslice: no role {arguments[0]!r}; roles are {', '.join(ROLES)}", file=sys.stderr)
        sys.exit(2)
    module = import_module(ROLES[arguments[0]][0])
    module.run(arguments[1:], prog_name=f"oneslice {arguments[0]}")


if __name__ == "__main__":
    main()
