"""The mixture that is measured and the other models that it is compared with, loaded when they are first needed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moemerge.families import auto_class_of, language_config
from moemerge.mixture.content import checkpoint_content
from moemerge.mixture.folder import MoeFolder, load_pretrained, load_tokenizer
from moemerge.mixture.placement import Placement
from moemerge.mixture.processes import Processes
from moemerge.mixture.routers import Routers, find_routers
from moemerge.sources.folder import open_folder
from moemerge.sources.weights import Folder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Mixture:
    """The folder's model, loaded when it is first needed."""

    def __init__(self, folder: MoeFolder, placement: Placement, processes: Processes) -> None:
        self.folder, self._placement, self._processes = folder, placement, processes
        self._model: Any = None
        self._routers: Routers | None = None

    def model(self) -> Any:
        """The model."""
        if self._model is None:
            self._model = self.folder.load(self._placement)
            self._routers = find_routers(self._model)
        return self._model

    def routers(self) -> Routers:
        """Its routers."""
        self.model()
        assert self._routers is not None
        return self._routers

    @cached_property
    def content(self) -> str:
        """Its content digest, the same in all processes."""
        return self._processes.from_first(lambda: checkpoint_content(self.folder.checkpoint))

    def release(self) -> None:
        """Lets its memory go."""
        self._model = self._routers = None


class Compared:
    """A model that the mixture is compared with, by plain transformers.

    Raises:
        SourceError: its folder cannot be opened.
    """

    def __init__(self, path: Path, placement: Placement) -> None:
        self._path, self._placement = path, placement
        self.checkpoint = open_folder(Folder.at(path, str(path)))
        self._model: Any = None

    @property
    def config(self) -> Mapping[str, Any]:
        """Its language model's config."""
        return language_config(self.checkpoint.config)

    def model(self) -> Any:
        """The model, loaded once."""
        if self._model is None:
            self._model = load_pretrained(self._path, self._placement, auto_class_of(self.checkpoint.config))
        return self._model

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its own tokenizer."""
        return load_tokenizer(self._path)

    def content(self) -> str:
        """Its content digest."""
        return checkpoint_content(self.checkpoint)

    def release(self) -> None:
        """Lets its memory go."""
        self._model = None
