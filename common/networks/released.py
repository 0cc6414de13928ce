"""The networks of a release, with its weights."""

from monai.networks.nets import UNet

from common.errors import BadReplyError, ReleaseError
from common.networks.unet import build_networks, load_arrays, networks_to_arrays
from common.released_models import Release
from common.updates import check_arrays


def released_networks(release: Release) -> dict[str, UNet]:
    """The segmenter and the student, ready to predict.

    Raises:
        ReleaseError: the tensors are not those of the plan's networks.
    """
    record = release.record
    networks = build_networks(record.plan, record.round)
    own = {name: one for name, one in release.arrays.items() if name.split("/")[0] in networks}
    try:
        check_arrays(own, networks_to_arrays(networks))
    except BadReplyError as error:
        raise ReleaseError(
            f"the release does not hold the models of {record.federation}: {error}"
        ) from None
    for role, network in networks.items():
        load_arrays(network, own, role)
        network.eval()
    return networks
