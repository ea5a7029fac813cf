"""GOT-OCR 2: a SAM-like tower, a projector, and a Qwen2."""

from moemerge.families.wrapper import Wrapper

WRAPPER = Wrapper(
    model_type="got_ocr2",
    title="GOT-OCR 2",
    architecture="GotOcr2ForConditionalGeneration",
    languages=("qwen2_moe",),
    language="qwen2",
)
