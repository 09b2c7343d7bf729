import sys

import pytest

# Triton crashes in a process where TensorFlow was loaded before, as it is here; PyTorch
# and timm do without. Extraction itself never loads TensorFlow.
sys.modules.setdefault("triton", None)


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Return `weights(name, **arguments)`: a file of random weights of a timm ViT."""
    import timm
    import torch

    folder, made = tmp_path_factory.mktemp("weights"), {}

    def make(name, **arguments):
        key = (name, *arguments.items())
        if key not in made:
            torch.manual_seed(0)
            model = timm.create_model(name, num_classes=0, **arguments)
            # Else biases and tokens of zeros would hide what is left out.
            for parameter in model.parameters():
                parameter.data += 0.02 * torch.randn(parameter.shape)
            made[key] = folder / f"{len(made)}.pt"
            torch.save(model.state_dict(), made[key])
        return made[key]

    return make
