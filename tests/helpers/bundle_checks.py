"""What programs do with an exported bundle, in a Python that has MONAI and lacks cggm_med.

Run in the bundle's folder: python bundle_checks.py SCHEMA FOUR_CHANNEL_FILE SCANS OUT
Findings go to OUT/findings.json.
"""

import importlib.util
import json
import os
import sys

import numpy as np
import onnxruntime
import torch
from monai import bundle
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data import MetaTensor
from monai.transforms import LoadImaged, SaveImaged

META, CONFIG, WEIGHTS = "configs/metadata.json", "configs/inference.json", "models/model.pt"


def image(size, seed):
    return torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(seed))


def forget_scripts():
    """MONAI Label does this before each step."""
    for name in [name for name in sys.modules if name.split(".")[0] == "scripts"]:
        del sys.modules[name]


def parsed(root):
    parser = ConfigParser()
    parser.read_config(os.path.join(root, CONFIG))
    parser.config["bundle_root"] = root
    parser.config["accept"] = ["exchanged_modalities"]  # the scans of the tests are of a phantom
    return parser


def as_label(root, file):
    """One file through a bundle as MONAI Label takes it: transforms by their key, without saving."""
    parser = parsed(root)
    network = parser.get_parsed_content("network_def", instantiate=True)
    network.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    with open(META) as content:
        form = json.load(content)["network_data_format"]
    source, prediction = next(iter(form["inputs"])), next(iter(form["outputs"]))
    labels = {name.lower(): int(n) for n, name in form["outputs"][prediction]["channel_def"].items()}
    data = {source: file}
    forget_scripts()
    for transform in parser.get_parsed_content("preprocessing", instantiate=True).transforms:
        data = transform(data)
    forget_scripts()
    inferer = parser.get_parsed_content("inferer", instantiate=True)
    with torch.no_grad():
        data[prediction] = inferer(data[source][None], network.eval())[0]
    forget_scripts()
    for transform in parser.get_parsed_content("postprocessing", instantiate=True).transforms:
        data = data if isinstance(transform, SaveImaged) else transform(data)
    return data[prediction], labels


def as_deploy(root, file):
    """The same as MONAI Deploy does it: TorchScript, images in memory, no loading and no saving."""
    parser = parsed(root)
    load, *before = parser.get_parsed_content("preprocessing").transforms
    loaded = load({"image": file})["image"]
    inputs = {"image": MetaTensor.ensure_torch_and_prune_meta(loaded.numpy(), dict(loaded.meta))}
    for transform in before:
        inputs = transform(inputs)
    kept = inputs.pop("image")
    assert not inputs, "whatever else is there would be given to the network"
    with torch.no_grad():
        output = parser.get_parsed_content("inferer")(inputs=kept[None], network=torch.jit.load("models/model.ts"))
    data = {"image": kept, "pred": output[0]}
    for transform in parser.get_parsed_content("postprocessing").transforms:
        data = data if isinstance(transform, (LoadImaged, SaveImaged)) else transform(data)
    return data["pred"]


def main(schema, file, scans, out):
    root = os.getcwd()
    found = {"cggm_med": importlib.util.find_spec("cggm_med") is not None}
    bundle.verify_metadata(meta_file=META, filepath=schema)
    sys.path.insert(0, root)
    for n in (1, 2):
        bundle.verify_net_in_out("network_def", meta_file=META, config_file=CONFIG, device="cpu", n=n)
    workflow = ConfigWorkflow(
        CONFIG, meta_file=META, logging_file=False, workflow_type="infer", dataset_dir=os.path.dirname(file)
    )
    workflow.initialize()
    found["missing"] = workflow.check_properties()

    network = parsed(root).get_parsed_content("network_def")
    network.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    network.eval()
    sizes = [(8, 8, 8), (12, 20, 16), (32, 8, 24)]
    shared = {"net_id": "network_def", "ckpt_file": WEIGHTS, "meta_file": META, "config_file": CONFIG}
    bundle.ckpt_export(filepath=f"{out}/again.ts", use_trace=True, input_shape=[1, 4, 8, 8, 8], **shared)
    bundle.onnx_export(filepath=f"{out}/model.onnx", use_trace=True, input_shape=[1, 4, 32, 8, 24], **shared)
    with torch.no_grad():
        for name, path in (("ts", "models/model.ts"), ("ckpt_export", f"{out}/again.ts")):
            scripted = torch.jit.load(path).eval()
            found[name] = [float((scripted(image(s, 1)) - network(image(s, 1))).abs().max()) for s in sizes]
        session = onnxruntime.InferenceSession(f"{out}/model.onnx", providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {session.get_inputs()[0].name: image(sizes[2], 2).numpy()})
        found["onnx"] = float((torch.from_numpy(logits) - network(image(sizes[2], 2))).abs().max())

    mask, found["labels"] = as_label(root, file)
    np.save(f"{out}/label.npy", mask.numpy())
    np.save(f"{out}/deploy.npy", as_deploy(root, file).numpy())

    both = [CONFIG, "configs/evaluate.json"]
    bundle.run(config_file=both, meta_file=META, device="cpu", dataset_dir=scans, output_dir=f"{out}/scores")
    return found


if __name__ == "__main__":
    findings = main(*sys.argv[1:])
    with open(f"{sys.argv[4]}/findings.json", "w") as target:
        json.dump(findings, target)
