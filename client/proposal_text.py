"""How a proposal is printed for the person who decides on it."""

from client.proposal import BundleProposal, GoesOn, PlanProposal, Proposal
from common.printable import printable

MEGABYTE = 1e6
MOST_LINES = 400


def print_proposal(proposal: Proposal, *, diff: bool) -> None:
    """The code, the plans, and what will leave the building; `diff` shows all changed lines."""
    if proposal.bundle is not None:
        _print_bundle(proposal.bundle, diff=diff)
    for plan in proposal.plans:
        _print_plan(plan)
    if not proposal.plans:
        print("\nplan: none to approve; name one with --plan, or wait until one is asked for")
    print("\nWHAT WILL LEAVE THE BUILDING")
    print(f"  to       {proposal.address or 'nobody yet: this hospital has joined nothing'}")
    for plan in proposal.plans:
        for one in plan.sends:
            kept = "" if one.network in proposal.networks else "; the policy keeps it back"
            print(
                f"  weights  {one.network}: {one.tensors} tensors, {one.parameters:,} numbers, "
                f"{one.num_bytes / MEGABYTE:.1f} MB in each of {one.rounds} rounds{kept}"
            )
    print(f"  numbers  {', '.join(proposal.note)}")
    print(f"  kept     {', '.join(proposal.withheld) or 'none: the policy lets all of them leave'}")
    print("  never    scans, masks, label maps, file names, names of patients")


def _print_bundle(bundle: BundleProposal, *, diff: bool) -> None:
    print(f"bundle {bundle.hash}{' (approved already)' if bundle.approved else ''}")
    own = "is" if bundle.own else "IS NOT"
    print(f"  it {own} what this hospital's own installation builds")
    if bundle.came_last == bundle.hash:
        print("  it is what the coordinator sent last")
    elif bundle.came_last is not None:
        print(f"  IT IS NOT what the coordinator sent last: {printable(bundle.came_last)}")
        print("  (refused/ has that one; --bundle shows it beside what was approved before)")
    if bundle.compared_with is None:
        print(f"  the first bundle here: {len(bundle.changes)} files")
        return
    print(f"  beside {bundle.compared_with}: {len(bundle.changes)} files differ")
    for change in bundle.changes:
        print(f"    {change.how:<9}{printable(change.path)}")
    lines = [line for change in bundle.changes for line in change.diff.split("\n")]
    shown = lines if diff else lines[:MOST_LINES]
    for line in shown:
        print(printable(line))
    if len(shown) < len(lines):
        print(f"  AND {len(lines) - len(shown)} LINES MORE: --diff shows all")


def _print_plan(plan: PlanProposal) -> None:
    print(f"\nplan {plan.federation}{' (approved already)' if plan.approved else ''}")
    print(f"  {plan.rounds} rounds; one message to this hospital and one back in each")
    if plan.goes_on is not None:
        _print_goes_on(plan.goes_on)
    if plan.compared_with is None:
        print(f"  the first plan here: {len(plan.changes)} keys")
    else:
        print(f"  since {plan.compared_with}: {len(plan.changes)} keys differ")
    for change in plan.changes:
        before = "" if plan.compared_with is None else f"{printable(change.before)} -> "
        print(f"    {printable(change.key):<36}{before}{printable(change.after)}")


def _print_goes_on(earlier: GoesOn) -> None:
    print(f"  goes on from {earlier.federation} after its round {earlier.after_round}: with its")
    print("  models, and with what this hospital remembers of it (replay memory, trained tasks)")
    if not earlier.is_approved:
        print("  THAT PLAN IS NOT APPROVED HERE, so this one is not set beside it")
