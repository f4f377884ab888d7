"""Weights of TotalSegmentator's 3 mm model as it lays them out, tiny and at random.

Only the widths are small: nnU-Net plans, data set, trainer and checkpoint are those that the package reads.
What it draws means nothing; which voxels it draws on does.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet

from core_model.anatomy import structures

DATASET = "Dataset297_TotalSegmentator_total_3mm_1559subj"
TRAINER = "nnUNetTrainer_4000epochs_NoMirroring"


def tiny_weights(folder: Path, seed: int = 0) -> Path:
    """Write the model into `folder`, which is what ``TOTALSEG_WEIGHTS_PATH`` names; returns `folder`."""
    model = folder / DATASET / f"{TRAINER}__nnUNetPlans__3d_fullres"
    (model / "fold_0").mkdir(parents=True)
    labels = {"background": 0, **{s.name: s.v2_id for s in structures() if s.v2_id is not None}}
    data = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1559, "file_ending": ".nii.gz"}
    (model / "dataset.json").write_text(json.dumps(data))
    (model / "plans.json").write_text(json.dumps(_plans()))
    torch.manual_seed(seed)
    network = PlainConvUNet(
        input_channels=1,
        n_stages=2,
        features_per_stage=[4, 8],
        conv_op=torch.nn.Conv3d,
        kernel_sizes=[[3, 3, 3]] * 2,
        strides=[[1, 1, 1], [2, 2, 2]],
        n_conv_per_stage=[1, 1],
        num_classes=len(labels),
        n_conv_per_stage_decoder=[1],
        conv_bias=True,
        norm_op=torch.nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=False,
    )
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": TRAINER,
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(checkpoint, model / "fold_0" / "checkpoint_final.pth")
    return folder


def _plans() -> dict[str, object]:
    """In the older form, which the published weights of version 2 have."""
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [32, 32, 32],
        "median_image_size_in_voxels": [64.0, 64.0, 64.0],
        "spacing": [3.0, 3.0, 3.0],
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "n_conv_per_stage_encoder": [1, 1],
        "n_conv_per_stage_decoder": [1],
        "num_pool_per_axis": [1, 1, 1],
        "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2]],
        "conv_kernel_sizes": [[3, 3, 3], [3, 3, 3]],
        "unet_max_num_features": 320,
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": {**resampling, "is_seg": True},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling,
        "batch_dice": True,
    }
    intensities = {
        "max": 3000.0,
        "mean": 0.0,
        "median": 20.0,
        "min": -1024.0,
        "percentile_00_5": -1004.0,
        "percentile_99_5": 1588.0,
        "std": 500.0,
    }
    return {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [3.0, 3.0, 3.0],
        "original_median_shape_after_transp": [64, 64, 64],
        "image_reader_writer": "NibabelIOWithReorient",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities},
    }
