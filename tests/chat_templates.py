"""What chat templates of well-known families do, in short."""

_TURNS = (
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n{{ turn.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# A default system prompt.
SMOLLM2 = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful thing.<|im_end|>\n{% endif %}" + _TURNS
)
# An empty think block before the answer, in a prompt for one only with enable_thinking=False.
QWEN3 = (
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n"
    "{% if turn.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ turn.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
# It writes the begin-of-text token, which the tokenizer adds as well, and the day.
LLAMA3 = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}{% set date_string = strftime_now('%d %b %Y') "
    "%}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}"
    "{{ bos_token }}<|im_start|>system\n\nToday Date: {{ date_string }}\n\n<|im_end|>"
    "{% for turn in messages %}<|im_start|>{{ turn.role }}\n\n{{ turn.content | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
# No system role, and the assistant is called the model.
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for turn in messages %}<|im_start|>{{ 'model' if turn.role == 'assistant' else turn.role }}\n"
    "{{ turn.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>model\n{% endif %}"
)
# A space before the answer, which a prompt for one lacks.
MISTRAL = (
    "{{ bos_token }}{% for turn in messages %}{% if turn.role == 'user' %}[INST] {{ turn.content }} [/INST]"
    "{% else %} {{ turn.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
# A prompt for an answer starts to think, answers hold no thoughts.
DEEPSEEK = (
    "{{ bos_token }}{% for turn in messages %}{% if turn.role == 'user' %}<|User|>{{ turn.content }}"
    "{% else %}<|Assistant|>{{ turn.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)
TEMPLATES = {
    "smollm2": SMOLLM2,
    "qwen3": QWEN3,
    "llama3": LLAMA3,
    "gemma": GEMMA,
    "mistral": MISTRAL,
    "deepseek": DEEPSEEK,
}
