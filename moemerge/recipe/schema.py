"""The recipe as frozen data. The field docstrings are the reference page and the JSON Schema's descriptions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator
from pydantic_core import PydanticCustomError

GateInit = Literal[
    "discriminant", "advantage", "lda", "centroid", "centred", "random", "uniform",
    "mergekit_hidden", "hidden_avg", "cheap_embed",
]  # fmt: skip
MergeMethod = Literal["mean", "base", "weighted", "task_arithmetic", "slerp", "ties", "dare_ties"]
SharedMerge = Literal["mean", "base", "weighted", "task_arithmetic", "slerp", "ties", "dare_ties", "auto"]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]

EXPERT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""What an expert may be called."""

MOST_EXPERTS = 1024
"""Experts that a recipe may have, copies counted."""


LayerRange = Annotated[str, StringConstraints(pattern=r"^([0-9]{1,4}(-[0-9]{1,4})?|agree)$")]


class Strict(BaseModel):
    """Frozen, refuses unknown keys, and takes each field's docstring as its description."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Rows(Strict):
    """Rows of a file or of a hub data set; the classes below say what is read of each."""

    path: str
    """JSONL, a JSON array, CSV (or TSV) with a header, Parquet, or the id of a hub data set."""
    split: str = "train"
    """Split of a hub data set."""
    name: str | None = None
    """Configuration name of a hub data set."""
    revision: str | None = None
    """Revision of a hub data set."""
    limit: int | None = Field(default=None, ge=1)
    """Reads at most this many rows."""


class Data(Rows):
    """A set of texts: a file or a hub data set."""

    path: str
    """JSONL, a JSON array, CSV (or TSV) with a header, plain text (one document a blank-line-separated paragraph),
    Parquet, or the id of a hub data set."""
    field: str | None = None
    """The field (or column) that holds a text, or a list of messages. Without it the form is recognised by the fields'
    names: see texts.md."""
    losses: Literal["replies", "all"] = "replies"
    """What the losses of conversations are taken of, in `eval`, in training and where a merge is chosen: the `replies`
    alone, or `all` that the chat template writes."""
    limit: int | None = Field(default=None, ge=1)
    """Reads at most this many documents."""


class Questions(Rows):
    """Questions with their answers: the model's replies are compared exactly, but for case, spaces, a full stop at the
    end and the commas within large numbers. Of an answer that ends in `#### 4` or holds `\\boxed{4}`, the `4`."""

    question: str = Field(default="question", min_length=1)
    """The field (or column) that holds the question."""
    answer: str = Field(default="answer", min_length=1)
    """The field that holds the answer, a text or a number, or a list of answers, each of which counts as right."""
    prompt: str = Field(default="Question: {question}\nAnswer:", pattern=r"\{question\}")
    """What the model continues; `{question}` stands for the question, and any other brace for itself."""
    after: str | None = Field(default=None, min_length=1)
    """The answer follows the first such text in what the model writes, such as `Answer:`. Without it the answer begins
    at once, or is what the model marks as the right answer does. It ends with its line."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """The most tokens written for a question: 96, or half as many again as the longest answer has where answers are
    marked."""
    limit: int | None = Field(default=None, ge=1)
    """Asks at most this many questions."""


class Expert(Strict):
    """One specialist whose FFNs become an expert."""

    name: str = Field(min_length=1, pattern=EXPERT_NAME)
    """A short name for messages, the model card and the report. Unique."""
    model: str = Field(min_length=1)
    """Full checkpoint or PEFT adapter: folder, hub id[@revision], GGUF file, `package:NAME/file.gguf`, `MODEL+ADAPTER`,
    or `base` for the base model itself."""
    prompts: tuple[str, ...] = ()
    """Prompts that this expert should answer; the gate is fitted from them."""
    prompts_file: str | None = None
    """A text file with one prompt per line, instead of `prompts`."""
    data: Data | None = None
    """Texts of the expert's domain, beside prompts or instead of them."""
    negative_prompts: tuple[str, ...] = ()
    """Prompts that this expert must not win."""
    weight: float = Field(default=1.0, gt=0.0)
    """Share of this model in a `weighted` merge, and factor of its delta in the other methods."""
    pad: bool = False
    """Zero-pads a narrower FFN to the widest expert's width, which is exact. Without it another width is refused."""
    copies: int = Field(default=1, ge=1, le=256)
    """Makes this many experts of it, named `NAME-1`, `NAME-2` and so on, to be trained further."""
    reinitialise: Fraction = 0.0
    """Share of the FFN's channels that are drawn anew, others in each expert: in each matrix from a normal distribution
    with the mean and the standard deviation of what it has there (drop-upcycling, arXiv 2502.19261)."""
    noise_scale: float = Field(default=0.0, ge=0.0)
    """Standard deviation of Gaussian noise added to the expert's FFN weights (mergekit's `noise_scale`)."""
    residual_scale: float = 1.0
    """Factor on the expert's down projection (mergekit's `residual_scale`)."""

    def spread_out(self) -> tuple[Expert, ...]:
        """The experts that it stands for; itself where that is one."""
        if self.copies == 1:
            return (self,)
        names = (f"{self.name}-{number}" for number in range(1, self.copies + 1))
        return tuple(self.model_copy(update={"name": name, "copies": 1}) for name in names)


class SharedExpert(Strict):
    """An FFN that every token passes through, beside the routed ones (at most one, where the host has a place)."""

    model: str = Field(min_length=1)
    """Where the FFN comes from, as in an expert's `model`."""
    residual_scale: float = 1.0
    """Factor on its output."""


class Gate(Strict):
    """How the router's weights are made."""

    init: GateInit = "discriminant"
    """The method: see docs/gates.md."""
    expand: Literal["auto", "off"] | Annotated[int, Field(ge=1)] = "auto"
    """Lets each specialist continue its own prompts so that a handful of prompts gives enough tokens: `auto` when there
    are few and the device can do it in reasonable time, `off`, or a number of tokens per expert."""
    ridge: float | None = Field(default=None, gt=0.0)
    """λ of the ridge in units of the mean eigenvalue tr(G)/d; chosen out of fold when absent."""
    keep_statistics: bool = False
    """Keeps the gate's sufficient statistics in OUT, so that an expert can be added later."""
    data: Data | None = None
    """Texts of all experts in one pool that nobody sorted, for `advantage` alone: it is fitted to them in place of the
    experts' own prompts and data."""
    max_tokens: int = Field(default=32768, ge=64)
    """The most tokens per expert that are read from its `data`; from `gate.data`, as many times the number of experts.
    You are told what is left out."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """The dtype that the models run in while the gate is fitted: `auto` is that of the weights, or float32 on a CPU
    that is slow in it. The written weights keep theirs."""


class Merge(Strict):
    """How everything that is not an expert is merged."""

    shared: SharedMerge = "mean"
    """Method for every shared tensor, unless a group below says otherwise."""
    attention: MergeMethod | None = None
    """Method for attention tensors."""
    norms: MergeMethod | None = None
    """Method for the norms."""
    embeddings: MergeMethod | None = None
    """Method for the input embedding."""
    lm_head: MergeMethod | None = None
    """Method for the output head, where it is not tied."""
    ffn: MergeMethod | None = None
    """Method for the FFNs of layers that stay dense (`layers`)."""
    scaling: float | None = None
    """λ on the merged delta: base + λ · delta. Default 0.5 for `task_arithmetic`, 1 for `ties` and `dare_ties`."""
    slerp_t: Fraction = 0.5
    """Position between the two models of `slerp`: 0 is the first."""
    density: float = Field(default=0.5, gt=0.0, le=1.0)
    """Share of each delta that `ties` and `dare_ties` keep."""


class Vocabulary(Strict):
    """Whose tokens the output has. Models may differ in added tokens and padding rows, never in the tokens below."""

    source: str | None = Field(default=None, min_length=1)
    """`union`: the base's tokens and whatever an expert adds, matched by their text. `base`, or an expert's name: that
    model's tokens alone. Without it `union`, or `base` where `merge.shared` is `base`."""
    chat_template: str | None = Field(default=None, min_length=1)
    """With `union`, whose tokenizer the others' tokens are added to: `base` or an expert's name. Its chat template,
    special tokens and `generation_config.json` come with it, since they belong together. `base` when absent."""
    tokens: dict[str, str] = Field(default_factory=dict)
    """Whose rows a token has, by the token: `base` or an expert's name. Otherwise its rows are merged as the rest is,
    over the models that have it."""
    pad_to_multiple_of: int | None = Field(default=None, ge=1, le=1 << 13)
    """Rounds the rows of embedding and head up to a multiple of this. A row that no token has is the mean of all."""


class Output(Strict):
    """Where and how the checkpoint is written."""

    path: str | None = None
    """The output folder; `-o` overrides it."""
    shard_size: str = Field(default="5GB", pattern=r"^[0-9]+(\.[0-9]+)?\s*[KMGkmg][Ii]?[Bb]$")
    """The largest shard, such as `5GB`."""
    layout: Literal["per_expert", "fused"] = "per_expert"
    """`per_expert` names are those of the hub, which more runtimes know (docs/runtimes.md); `fused` loads faster in
    transformers 5, and transformers 4 loads it with random experts and only a warning. A host that knows fused names
    alone (`granitemoe`) gets these either way."""


class Evaluation(Strict):
    """Held-out texts, never read by `build` or training."""

    domains: dict[str, Data | str] = Field(default_factory=dict)
    """Texts by domain; a domain named as an expert is that expert's own."""
    questions: dict[str, Questions] = Field(default_factory=dict)
    """Questions by domain, which the model answers in its own words."""


class Recipe(Strict):
    """What is to be built."""

    base_model: str = Field(min_length=1)
    """The dense model that the specialists were tuned from: folder, hub id[@revision], GGUF file or
    `package:NAME/file.gguf`."""
    experts: tuple[Expert, ...]
    """The specialists, in the order of the experts."""
    experts_per_token: int = Field(default=2, ge=1)
    """Experts that each token passes through: 1 routes to one expert, 2 and more mix, all is a soft mixture."""
    shared_experts: tuple[SharedExpert, ...] = ()
    """Always-on experts, where the host has a place for them."""
    layers: dict[LayerRange, Literal["dense"]] = Field(default_factory=dict)
    """Layers that stay dense, by their numbers from 0: `{0: dense, 30-31: dense}`. Such a layer has no router and one
    FFN, merged as the shared weights are (`merge.ffn`, else `merge.shared`), without any expert's noise or scale.
    `agree: dense` stands for all other layers in which the experts' FFNs are the same bytes, and keeps these."""
    template: Literal["none", "chat"] = "none"
    """`chat` wraps prompts in the specialist's chat template, or the base's where it has none, before the gate is
    fitted."""
    gate: Gate = Gate()
    """How the gate is made."""
    merge: Merge = Merge()
    """How the rest is merged."""
    tokenizer: Vocabulary = Vocabulary()
    """Whose tokens the output has."""
    architecture: str = "auto"
    """`auto`, or the `model_type` of a host that fits: see families.md."""
    near: bool = False
    """Builds into a host that is not exact however far off it is. Without it a measured error of the logits above
    1e-3 is refused; `plan` and families.md say which hosts are near, and by which law."""
    sliding_window: str | None = Field(default=None, min_length=1)
    """Whose sliding window holds where the models differ in it: `base`, or the name of an expert. The others are run
    with it too, so beyond it they are not quite what they were. Without it such models are refused."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """The dtype of the written weights; `auto` keeps the base's (bfloat16 for a quantised GGUF)."""
    output: Output = Output()
    """Where and how to write."""
    eval: Evaluation = Evaluation()
    """Held-out texts for `moemerge eval`."""
    allow_pickle: bool = False
    """Reads `.bin` checkpoints, with `weights_only=True`."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seeds everything that is random."""

    @field_validator("experts")
    @classmethod
    def _spread_out(cls, experts: tuple[Expert, ...]) -> tuple[Expert, ...]:
        """An expert for each copy."""
        count = sum(expert.copies for expert in experts)
        if count > MOST_EXPERTS:
            text = "{count} with all copies, and a recipe may have {most}"
            raise PydanticCustomError("too_many", text, {"count": count, "most": MOST_EXPERTS})
        return tuple(copy for expert in experts for copy in expert.spread_out())

    def dump(self) -> dict[str, Any]:
        """The recipe as plain data, with every default written out."""
        return self.model_dump(mode="json")
