"""The end of a run in several processes."""

import gc
import sys
from typing import Any

import torch.distributed as dist


def end_process_group() -> None:
    """Destroy the process group and wait until its threads have ended.

    Call it instead of `torch.distributed.destroy_process_group`, in every process, where nothing refers to the model,
    its optimizer or an `AutoBatch` any more: after the function that trains has returned. Without a process group it
    does nothing.

    gloo runs collectives in threads of its own, which end when the last reference to the group goes. A model sharded by
    `fully_shard` or wrapped in `DistributedDataParallel` holds one, and so does a sharded model's device mesh, which
    torch keeps in caches (of DTensor) after the model is gone. A thread that lives on may still have the tensors of the
    last collective to release. If it asks for the interpreter's lock while the interpreter shuts down, Python ends the
    thread, and C++ aborts the process: "terminate called without an active exception".
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    gc.collect()  # a sharded model refers to itself
    for mesh in _device_meshes():
        getattr(mesh, "_pg_registry", {}).clear()  # older versions of torch keep names only
    dist.destroy_process_group()


def _device_meshes() -> list[Any]:
    """All that are alive, those in torch's caches included."""
    module: Any = sys.modules.get("torch.distributed.device_mesh")
    if module is None:
        return []
    kind = module.DeviceMesh
    return [item for item in gc.get_objects() if type(item) is kind]  # isinstance would wake lazy objects
