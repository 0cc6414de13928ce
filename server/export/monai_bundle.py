"""One network as a MONAI Bundle, which runs with MONAI alone, where no OneSlice is installed.

The configuration says with MONAI's own transforms what a hospital's prediction does
(client/store/normalise.py, client/learning/predict.py), in the same order and with the same
numbers. What it cannot say is in the bundle's README.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module

from common.networks.unet import SILENT
from common.plan import FederationPlan, NetworkSize, Task
from common.whole_file import write_whole

Config = dict[str, Any]
# The task's place: MONAI's tools look for a file of this name.
FIRST_CONFIG = "inference.json"


def write_bundle(
    folder: Path,
    network: Module,
    size: NetworkSize,
    plan: FederationPlan,
    texts: Mapping[str, str],
    *,
    overlap: float,
) -> None:
    """Writes the bundle to `folder`.

    Args:
        folder: the bundle's root, which is made.
        network: what it holds.
        size: that of `network`.
        plan: the federation's, of the tasks that the network was trained on.
        texts: further files by their path in the bundle.
        overlap: of neighbouring windows, along each axis, as a share of them.

    Raises:
        OSError: the folder cannot be written.
    """
    weights = {name: one.contiguous() for name, one in network.state_dict().items()}
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    write_whole(folder / "models" / "model.pt", buffer.getvalue())
    for name, task in tasks_by_config(plan).items():
        config = json.dumps(inference_config(plan, size, task, overlap), indent=2)
        write_whole(folder / "configs" / name, config)
    for name, text in texts.items():
        write_whole(folder / name, text)


def tasks_by_config(plan: FederationPlan) -> dict[str, Task]:
    """The configurations by name: one for each scale of intensities, with its first task."""
    found: dict[str, Task] = {}
    for task in plan.tasks:
        if all(_scale_of(task) != _scale_of(one) for one in found.values()):
            found[f"inference_{task.name}.json" if found else FIRST_CONFIG] = task
    return found


def config_of(plan: FederationPlan, task: Task) -> str:
    """The configuration for a task's scans."""
    configs = tasks_by_config(plan)
    return next(name for name, one in configs.items() if _scale_of(one) == _scale_of(task))


def inference_config(plan: FederationPlan, size: NetworkSize, task: Task, overlap: float) -> Config:
    """From a folder of scans to a folder of label maps, each on the grid of its scan."""
    return {
        "imports": ["$import glob", "$import torch", "$from monai.transforms import Resize"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/input'",
        "output_dir": "$@bundle_root + '/output'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "scans": "$sorted(glob.glob(@dataset_dir + '/*.nii*'))",
        "network_def": _network(plan, size),
        "network": "$@network_def.to(@device).to(memory_format=torch.channels_last_3d)",
        "preprocessing": _compose(_preprocessing(plan, task)),
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': scan} for scan in @scans]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(plan.training.patch_size),
            "sw_batch_size": plan.training.batch_size,
            "overlap": overlap,
            "mode": "gaussian",
            "padding_mode": "replicate",
        },
        "postprocessing": _compose(_postprocessing(plan)),
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
                "map_location": "@device",
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": "$@device.type == 'cuda'",
        },
        "run": ["$@evaluator.run()"],
    }


def _network(plan: FederationPlan, size: NetworkSize) -> Config:
    """As `common.networks.unet.build_unet`."""
    return {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": plan.channels,
        "out_channels": plan.num_classes,
        "channels": list(size.channels),
        "strides": [one if isinstance(one, int) else list(one) for one in size.strides],
        "num_res_units": size.residual_units,
        "norm": "instance",
    }


def _compose(transforms: list[Config]) -> Config:
    return {"_target_": "Compose", "transforms": transforms}


def _preprocessing(plan: FederationPlan, task: Task) -> list[Config]:
    transforms: list[Config] = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
        *_intensities(task),
    ]
    if plan.training.spacing_mm is None:
        return transforms
    # MONAI's Spacingd would take a grid of exactly that spacing, which ends elsewhere.
    sizes = (
        "[max(1, round(n * own / wanted)) for n, own, wanted in "
        f"zip(image.shape[1:], image.pixdim.tolist(), {list(plan.training.spacing_mm)})]"
    )
    resize = f"$lambda image: Resize({sizes}, mode='trilinear', align_corners=False)(image)"
    return [
        *transforms,
        {"_target_": "CopyItemsd", "keys": "image", "names": "own_grid"},
        {"_target_": "Lambdad", "keys": "image", "func": resize},
    ]


def _intensities(task: Task) -> list[Config]:
    """As `client.store.normalise.normalise`."""
    if task.modality == "CT" and task.window_hu is not None:
        low, high = task.window_hu
        window = {"a_min": low, "a_max": high, "b_min": -1.0, "b_max": 1.0, "clip": True}
        return [{"_target_": "ScaleIntensityRanged", "keys": "image", **window}]
    clip = {"lower": 0.5, "upper": 99.5, "channel_wise": True}
    return [
        {"_target_": "ClipIntensityPercentilesd", "keys": "image", **clip},
        {"_target_": "NormalizeIntensityd", "keys": "image", "channel_wise": True},
    ]


def _postprocessing(plan: FederationPlan) -> list[Config]:
    transforms: list[Config] = [
        {"_target_": "CastToTyped", "keys": "pred", "dtype": "$torch.float32"},
        *_silence_untaught(plan),
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
    ]
    if plan.training.spacing_mm is not None:
        back = {
            "_target_": "ResampleToMatchd",
            "keys": "pred",
            "key_dst": "own_grid",
            "mode": "bilinear",
            "padding_mode": "border",
        }
        transforms.append(back)
    # Back to the file's own order of voxels: flips and permutations, so nearest is exact.
    save = {
        "_target_": "SaveImaged",
        "keys": "pred",
        "output_dir": "@output_dir",
        "output_postfix": "labels",
        "output_dtype": "$torch.uint8",
        "separate_folder": False,
        "resample": True,
        "mode": "nearest",
    }
    return [*transforms, {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}, save]


def _silence_untaught(plan: FederationPlan) -> list[Config]:
    """As `common.networks.unet.keep_silent`, of which a bundle's own network knows nothing."""
    silent = plan.untaught_indexes(plan.num_rounds)
    if not silent:
        return []
    lowered = [SILENT * (index in silent) for index in range(plan.num_classes)]
    channels = f"torch.tensor({lowered}, device=pred.device).reshape(-1, 1, 1, 1)"
    return [{"_target_": "Lambdad", "keys": "pred", "func": f"$lambda pred: pred + {channels}"}]


def _scale_of(task: Task) -> object:
    """What the intensities are brought to one scale by."""
    return task.modality, task.window_hu
