"""A small nnU-Net plan with an anisotropic network, as nnU-Net's planner writes it."""


def architecture(**changes):
    return {
        "n_stages": 4,
        "features_per_stage": [4, 6, 8, 8],
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
        "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [2, 2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2, 2],
        "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
        **changes,
    }


def residual(**changes):
    """Of nnU-Net's ResEnc planners."""
    same = architecture(n_blocks_per_stage=[1, 2, 1, 1], n_conv_per_stage_decoder=[1, 1, 1], **changes)
    del same["n_conv_per_stage"]
    return same


PLAIN = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
RESIDUAL = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
PATCH = (8, 32, 16)
ORDERS = {"data": 3, "seg": 1, "probabilities": 1}
RESAMPLING = {f"resampling_fn_{name}": "resample_data_or_seg_to_shape" for name in ORDERS} | {
    f"resampling_fn_{name}_kwargs": {"is_seg": name == "seg", "order": order, "order_z": 0, "force_separate_z": None}
    for name, order in ORDERS.items()
}


def plans(**changes):
    return {
        "continue_training": False,
        "dataset_name": "Dataset900_x",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {}, "1": {}},
        "configurations": {
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
                "preprocessor_name": "DefaultPreprocessor",
                "spacing": [1.0, 1.0, 1.0],
                "normalization_schemes": ["ZScoreNormalization"] * 2,
                "use_mask_for_norm": [True] * 2,
                **RESAMPLING,
                "batch_size": 2,
                "patch_size": list(PATCH),
                "batch_dice": False,
                "architecture": {
                    "network_class_name": PLAIN,
                    "arch_kwargs": architecture(),
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
                **changes,
            }
        },
    }
