"""Thread counts are chosen for a block and restored after it."""

from __future__ import annotations

import pytest
import torch

from vae_export.system.threads import fastest_threads


def test_fastest_threads_restores_the_thread_count() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with fastest_threads(lambda: None) as chosen:
            assert chosen == torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2

        def interrupted() -> None:
            with fastest_threads(lambda: None):
                raise InterruptedError

        with pytest.raises(InterruptedError):
            interrupted()
        assert torch.get_num_threads() == 2

        def broken() -> None:
            raise InterruptedError

        with pytest.raises(InterruptedError), fastest_threads(broken):
            pass
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
