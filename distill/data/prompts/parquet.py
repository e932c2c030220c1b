"""Prompts in a column of one Parquet file or of all Parquet files in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from distill.config.errors import UserError, first_line
from distill.data.prompts import PromptSettings

if TYPE_CHECKING:
    from distill.types import DataSource


class Settings(PromptSettings):
    """Prompts in a column of Parquet files; needs pyarrow (`pip install '.[data]'`)."""

    name: Literal["parquet"] = "parquet"
    path: Path
    """A Parquet file, or a folder whose Parquet files are read in the order of their names."""
    column: str = "text"
    """Name of the column of prompts. Empty and blank entries are skipped."""

    def load(self, data: DataSource | None = None) -> list[str]:
        """Read the prompts that are not blank."""
        found = [prompt.strip() for prompt in self._read_column() if prompt and prompt.strip()]
        if not found:
            raise UserError(f"prompts.path: {self.path} holds no prompt")
        return found

    def _read_column(self) -> list[str | None]:
        try:
            from pyarrow import lib, parquet
        except ImportError as error:
            raise UserError("prompts: parquet needs pyarrow; pip install '.[data]'") from error
        if not self.path.exists():
            raise UserError(f"prompts.path: {self.path} cannot be read (No such file or directory)")
        try:
            names = parquet.ParquetDataset(self.path).schema.names
            if self.column not in names:
                raise UserError(
                    f"prompts.column: {self.path} has no '{self.column}'; expected one of {', '.join(names)}"
                )
            column = parquet.read_table(self.path, columns=[self.column])[self.column]
        except (OSError, lib.ArrowException) as error:
            raise UserError(
                f"prompts.path: {self.path} cannot be read as Parquet ({first_line(error)})"
            ) from error
        prompts = column.to_pylist()
        for prompt in prompts:
            if not isinstance(prompt, str | None):
                raise UserError(
                    f"prompts.column: '{self.column}' of {self.path} holds {prompt!r}; expected text"
                )
        return prompts
