"""delete-var: forget chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segflow.cli.operator import names_in, operator

if TYPE_CHECKING:
    from segflow.state import State


@operator("State", deletes="var_names", example="segflow create-chunk -o image delete-var -v image")
@names_in("var_names", "-v", "--var-names", default=None, required=True,
          help="Chunks to forget, separated by commas; frees their memory.")  # fmt: skip
def delete_var(state: State, var_names: dict[str, Any]) -> None:
    """Forget chunks, to free their memory."""
    for name in var_names:
        del state[name]
