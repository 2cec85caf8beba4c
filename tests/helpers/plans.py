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


PLAIN = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
PATCH = (8, 32, 16)


def plans(**changes):
    return {
        "continue_training": False,
        "dataset_name": "Dataset900_x",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "configurations": {
            "3d_fullres": {
                "data_identifier": "nnUNetPlans_3d_fullres",
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
