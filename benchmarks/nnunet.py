"""nnU-Net's own predictor with random weights, as TotalSegmentator's 3 mm mode uses it.

The yardstick of `benchmarks.speed`, not a segmentation: random weights take as long as trained
ones. The scan is resampled to 3 mm before the predictor and its labels back behind it, as
TotalSegmentator does (117 classes on the scan's own grid would not fit into memory). The plan is
ours, of that size: one network, 117 classes and background, 3 mm, a patch of 112 x 112 x 128,
nnU-Net's default 3D full resolution U-Net (32 to 320 channels), no mirroring, half overlap.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import highdicom as hd
import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

INSTALL = "pip install nnunetv2"
SPACING_MM = 3.0


@dataclass(frozen=True)
class Plan:
    """Size of the network; the defaults are TotalSegmentator's 3 mm mode, smaller ones prove the path."""

    patch: tuple[int, int, int] = (112, 112, 128)
    features: tuple[int, ...] = (32, 64, 128, 256, 320)
    classes: int = 117


def missing() -> str | None:
    """Why nnU-Net cannot be run here, with the cure; None where it can."""
    if find_spec("nnunetv2") is None:
        return f"nnunetv2 is not installed; {INSTALL}"
    return None


class NNUNet:
    """A ready predictor; building it is not part of the measured time.

    Raises
    ------
    ImportError: if nnunetv2 is not installed (`missing` says so beforehand).
    """

    def __init__(self, plan: Plan, device: torch.device) -> None:
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # noqa: PLC0415 - optional
        from nnunetv2.utilities.get_network_from_plans import get_network_from_plans  # noqa: PLC0415
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # noqa: PLC0415

        manager = PlansManager(_plans(plan))
        configuration = manager.get_configuration("3d_fullres")
        network = get_network_from_plans(
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
            1,
            plan.classes + 1,
            deep_supervision=False,
        )
        network.eval()
        self._predictor = nnUNetPredictor(
            tile_step_size=0.5,
            use_gaussian=True,
            use_mirroring=False,
            perform_everything_on_device=device.type == "cuda",
            device=device,
            allow_tqdm=False,
        )
        labels = {"background": 0, **{f"class_{i}": i for i in range(1, plan.classes + 1)}}
        dataset = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
        weights = [network.state_dict()]
        self._predictor.manual_initialization(
            network.to(device), manager, configuration, weights, dataset, "nnUNetTrainerNoMirroring", None
        )

    def read(self, volume: hd.Volume) -> npt.NDArray[np.uint8]:
        """Label map on the scan's own grid."""
        array = np.asarray(volume.array, dtype=np.float32)
        zoom = [s / SPACING_MM for s in volume.spacing]
        small = ndimage.zoom(array, zoom, order=1)
        spacing = {"spacing": [SPACING_MM] * 3}
        labels = self._predictor.predict_single_npy_array(small[None], spacing)
        back = [n / m for n, m in zip(array.shape, labels.shape, strict=True)]
        return np.asarray(ndimage.zoom(labels.astype(np.uint8), back, order=0))


def _plans(plan: Plan) -> dict[str, Any]:
    """nnU-Net's plans.json for one 3D configuration."""
    n = len(plan.features)
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": n,
            "features_per_stage": list(plan.features),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * n,
            "strides": [[1, 1, 1], *[[2, 2, 2]] * (n - 1)],
            "n_conv_per_stage": [2] * n,
            "n_conv_per_stage_decoder": [2] * (n - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    configuration = {
        "data_identifier": "benchmark",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(plan.patch),
        "median_image_size_in_voxels": list(plan.patch),
        "spacing": [SPACING_MM] * 3,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling,
        "batch_dice": False,
        "architecture": architecture,
    }
    intensity = {"mean": 0.0, "std": 400.0, "percentile_00_5": -1000.0, "percentile_99_5": 1000.0}
    return {
        "dataset_name": "benchmark",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [SPACING_MM] * 3,
        "original_median_shape_after_transp": list(plan.patch),
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensity},
        "configurations": {"3d_fullres": configuration},
    }
