"""Several devices: the trained tensors live on all of them, the frozen backbone may be cut up between them.

`DataParallel` is DDP. `ShardedBase` is DDP whose frozen matrices are sharded by PyTorch's FSDP2, block by block: a rank
holds its shard of them and, while a block is computed, that block. What is trained (adapter, encoder, head) stays whole on
every rank, as in DDP: it is a few percent of a backbone with LoRA, and so checkpoint, clipping of the gradient and
optimizer are those of a single process. Lightning's own FSDPStrategy refuses CPUs and flattens frozen and trained weights
together; its ModelParallelStrategy would gather the frozen backbone for every checkpoint.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from edgenetllm.models.decoder import blocks


class DataParallel(DDPStrategy):
    """DDP of what is trained; frozen weights are equal on all ranks because they come from the same file."""

    def __init__(self, **options: Any) -> None:
        super().__init__(broadcast_buffers=False, gradient_as_bucket_view=True, **options)

    def _setup_model(self, model: nn.Module) -> DistributedDataParallel:
        frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen)
        return super()._setup_model(model)


class ShardedBase(DataParallel):
    """`DataParallel` with the frozen weights of the decoder's blocks sharded over the ranks."""

    def model_to_device(self) -> None:
        assert self.lightning_module is not None
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        shard_frozen(self.lightning_module.policy.decoder, mesh)  # type: ignore[union-attr,arg-type]
        super().model_to_device()

    def teardown(self) -> None:
        """Reshard all blocks first: after Ctrl-C the weights of one may be whole, and such a block cannot be moved."""
        if self.lightning_module is not None:
            for module in self.lightning_module.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()
        super().teardown()


def shard_frozen(decoder: nn.Module, mesh: DeviceMesh) -> None:
    """Cut the frozen weights of each block into as many shards as the mesh has ranks, in place, one block at a time."""
    for block in blocks(decoder):
        fully_shard(block, mesh=mesh, ignored_params={p for p in block.parameters() if p.requires_grad})
