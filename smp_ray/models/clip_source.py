"""What open_clip's (model, pretrained, revision) name: the one place that interprets them.

Of the four kinds, a folder and a weights file are their contents; a hub repository, and a tag whose weights lie in
one, are a commit of it. Nothing here needs torch or open_clip before a built-in name is looked up.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from smp_ray.errors import ModelError
from smp_ray.models.hub import hub_commit, hub_folder
from smp_ray.models.identity import file_digest, folder_identity
from smp_ray.models.loading import explained, model_folder
from smp_ray.models.settings import ClipSettings

#: The folder of the model that comes with the project.
EMBEDDED = "embedder"

HUB_PREFIX = "hf-hub:"
_CONFIG_NAME = "open_clip_config.json"
#: open_clip's names of the weights in a repository where a tag names none, in the order of its choice.
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True)
class ClipSource:
    """Where an open_clip model comes from; made by `clip_source`.

    Attributes:
        kind: a folder; a hub repository (`hf-hub:org/name`); a built-in name with a weights file; one with a tag.
        model: as in the settings.
        place: the folder, the hub repository or the weights file; of a tag its repository or, without one, its URL.
        revision: of the repository, as in the settings.
        tag: open_clip's name of the weights.
        entry: what open_clip knows of the tag: where its weights are, their preprocessing, `quick_gelu`.
    """

    kind: Literal["folder", "repository", "file", "tag"]
    model: str
    place: str
    revision: str | None = None
    tag: str | None = None
    entry: dict[str, Any] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """What identifies the model, as JSON.

        Returns:
            For a folder or 'embedded' `{"name", "files": {relative name: digest}}`; for a hub repository
            `{"name", "revision"}` with the commit; for a built-in name `{"name", "pretrained"}` with the weights
            file's digest, with the tag and the `"revision"` of its repository, or with the tag's URL, and
            `{"tokenizer": {"name", "revision"}}` where that is in another repository.

        Raises:
            ModelError: for an empty folder, or a repository whose commit cannot be found out.
        """
        if self.kind == "folder":
            return folder_identity(self.model, Path(self.place))
        if self.kind == "repository":
            return {"name": self.model, "revision": hub_commit(self.place, self.revision)}
        other = self._tokenizer()
        more = {"tokenizer": {"name": other, "revision": hub_commit(other, None)}} if other else {}
        if self.in_repository:
            commit = hub_commit(self.place, self.revision)
            return {"name": self.model, "pretrained": self.tag, "revision": commit, **more}
        return {"name": self.model, "pretrained": self.place if self.tag else file_digest(Path(self.place)), **more}

    def config(self) -> dict[str, Any]:
        """The model's `open_clip_config.json`, or for a built-in name the same shape, with the tag's preprocessing.

        Raises:
            ModelError: if there is none, or it wants to run code of its own.
        """
        with explained(self.model):
            if self.kind in ("folder", "repository"):
                return _read_config(self._folder(), self.model)
            import open_clip

            return {"model_cfg": open_clip.get_model_config(_built_in(self.model)), "preprocess_cfg": self.entry}

    def preprocessing(self) -> dict[str, Any]:
        """What `create_model` would set as `visual.preprocess_cfg`, without creating the model."""
        from open_clip.transform import PreprocessCfg, merge_preprocess_dict

        config = self.config()
        merged = merge_preprocess_dict(PreprocessCfg(), config.get("preprocess_cfg", {}))
        merged["size"] = config["model_cfg"]["vision_cfg"].get("image_size", 224)
        return dict(merged)

    def arguments(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What `open_clip.create_model` and `open_clip.get_tokenizer` are given, of the very revision.

        Weights in a hub repository are downloaded, so that open_clip finds a folder or a file.

        Raises:
            ModelError: if they cannot be had, or the configuration wants to run code of its own.
        """
        with explained(self.model):
            text = self.config()["model_cfg"].get("text_cfg", {})
            if self.kind in ("folder", "repository"):
                name, model = f"local-dir:{self._folder(weights=True)}", {}
            else:
                name = _built_in(self.model)
                # Weights trained with QuickGELU are silently wrong without it; open_clip only warns.
                quick = bool(self.entry.get("quick_gelu", False))
                model = {"pretrained": self.tag or self.place, "force_quick_gelu": quick}
            tokenizer: dict[str, Any] = {"trust_remote_code": False} if text.get("hf_tokenizer_name") else {}
            if other := self._tokenizer():
                tokenizer["revision"] = hub_commit(other, None)
                folder = hub_folder(other, tokenizer["revision"])  # once a node
                if text.get("hf_model_name") == other:  # open_clip would ask for its configuration by name
                    model["text_cfg"] = {**text, "hf_model_name": str(folder), "hf_model_pretrained": False}
            if self.in_repository:
                # open_clip looks the preprocessing up by the tag, not by the file; the size is the model's own.
                forced = {key: value for key, value in self.entry.items() if key != "size"}
                folder = self._folder(weights=True)
                (weights,) = self._weights([path.name for path in folder.iterdir()], folder)
                model |= {"pretrained": str(folder / weights), "force_preprocess_cfg": forced}
                if text.get("hf_tokenizer_name") == self.place:
                    tokenizer["revision"] = self.revision
            return {"model_name": name, **model}, {"model_name": name, **tokenizer}

    @property
    def in_repository(self) -> bool:
        """Whether the weights of the tag lie in a hub repository."""
        return bool(self.entry.get("hf_hub"))

    def _tokenizer(self) -> str:
        """The hub repository of a built-in name's tokenizer, where it is another than that of the weights; else ""."""
        if self.kind in ("folder", "repository"):
            return ""
        named = str(self.config()["model_cfg"].get("text_cfg", {}).get("hf_tokenizer_name") or "")
        return "" if named == self.place else named

    def _folder(self, weights: bool = False) -> Path:
        """The folder itself, or a repository's in the cache: configuration, tokenizer and, if asked for, weights."""
        if self.kind == "folder":
            return Path(self.place)
        return hub_folder(self.place, self.revision, self._weights if weights else None)

    def _weights(self, names: Sequence[str], folder: Path) -> list[str]:
        """The repository's weights file, its safetensors form where there is one."""
        named = self.entry.get("hf_hub", "").rpartition("/")[2]
        wanted = (str(Path(named).with_suffix(".safetensors")), named) if named else _WEIGHTS
        for name in wanted:
            if name in names:
                return [name]
        raise ModelError(f"hub repository '{self.place}' has none of {', '.join(wanted)}")


def clip_source(settings: ClipSettings) -> ClipSource:
    """What `settings` name, without downloading anything.

    Raises:
        ModelError: for a missing folder or file, an unknown name or tag, or a built-in name without weights.
    """
    model, pretrained = settings.model, settings.pretrained
    folder = model_folder(model, EMBEDDED)
    if folder is not None:
        return ClipSource("folder", model, str(folder))
    if model.startswith(HUB_PREFIX):
        return ClipSource("repository", model, model.removeprefix(HUB_PREFIX), settings.revision)
    if pretrained is None:
        raise ModelError(
            f"model '{model}' has no weights: set pretrained to one of open_clip's tags "
            "(for example laion2b_s34b_b79k for ViT-B-32) or to a weights file, or name a folder"
        )
    import open_clip

    name, path = _built_in(model), Path(pretrained).expanduser()
    if name not in open_clip.list_models():
        raise ModelError(f"'{model}' is neither a folder nor a name of open_clip (open_clip.list_models())")
    if path.is_file():
        return ClipSource("file", model, str(path.absolute()))  # open_clip would take a bare name for a tag
    entry = open_clip.get_pretrained_cfg(name, pretrained)
    if not entry:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ModelError(f"'{pretrained}' is neither a weights file nor a tag of '{model}' (tags: {known})")
    place = entry["hf_hub"].rpartition("/")[0] if entry.get("hf_hub") else entry["url"]
    return ClipSource("tag", model, place, settings.revision, pretrained, dict(entry))


def _built_in(model: str) -> str:
    """open_clip's own name for `model`: it writes ViT-B/32 as ViT-B-32."""
    return model.replace("/", "-")


def _read_config(folder: Path, model: str) -> dict[str, Any]:
    path = folder / _CONFIG_NAME
    if not path.is_file():
        raise ModelError(f"'{model}' is no open_clip model: no {_CONFIG_NAME}")

    def refused(part: dict[str, Any]) -> dict[str, Any]:
        """A part of the configuration; its tokenizer_kwargs reach transformers."""
        if part.get("trust_remote_code"):
            raise ModelError(
                f"'{model}' runs code of its own (trust_remote_code in {_CONFIG_NAME}); choose another model"
            )
        return part

    config = json.loads(path.read_text(encoding="utf-8"), object_hook=refused)
    if not isinstance(config, dict) or not isinstance(config.get("model_cfg"), dict):
        raise ModelError(f"{_CONFIG_NAME} of '{model}' has no model_cfg")
    return config
