"""The parameters of other servers that these schemas lack, and which of them are refused. Pure.

Rule 1: a parameter that would change the answer is refused by its name, unless its value is neutral. REFUSED lists
those of requests that generate, ``REFUSES`` of a schema those of one that does not; any other unknown name is ignored,
as clients expect.
Rule 2: ignored are hints about speed, price, bookkeeping or the tuning of something that is off:
service_tier, metadata, priority, cache_prompt, keep_alive, mirostat_tau without mirostat.
"""

from collections.abc import Callable, Iterable
from typing import Any

from pydantic import AliasChoices, BaseModel

from api.generation.refusals import NOTHING, Body, RefusedParameter, each, unsupported
from api.generation.schemas import Sampled


def _continues(body: Body) -> bool:
    """Whether the last message is the assistant's, which the answer then continues."""
    messages = body.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and last.get("role") == "assistant"


def _follows_the_last_message(wanted_when_it_continues: bool) -> Callable[[Any, Body], bool]:
    return lambda value, body: value is None or value is (_continues(body) is wanted_when_it_continues)


def _as_its_prompts_are(value: Any, body: Body) -> bool:
    """Chat templates write the special tokens of a text's start; for other prompts the tokenizer adds them."""
    return value is None or value is ("prompt" in body or "content" in body)


def _text_that_is_free(value: Any, body: Body) -> bool:
    """/v1/responses has its constraint in ``text``."""
    wanted = value.get("format") if isinstance(value, dict) else value
    return wanted in (*NOTHING, {"type": "text"})


def _without_penalties(value: Any, body: Body) -> bool:
    factors, terms = ("repetition_penalty", "repeat_penalty"), ("presence_penalty", "frequency_penalty")
    return value in (None, -1) or (
        all(body.get(name) in (None, 1) for name in factors) and not any(body.get(name) for name in terms)
    )


_ANOTHER_MODEL = "the model is served as its operator has set it up"
_NO_SUCH_SAMPLER = "this server does not sample so; leave it out"
_OTHER_ANSWER = "answers do not have this here; leave it out"
_MEDIA = "models here read and write text only"
_PROMPT = "the prompt is read as it is; leave it out"
_HARD_LIMIT = "tokens cannot be allowed or forbidden one by one; use 'logit_bias'"

REFUSED: dict[str, RefusedParameter] = {
    **each(
        "adapters adapter adapter_id draft_model lora lora_path lora_adapter lora_adapters lora_request"
        " lora_id chat_template chat_template_file role_mapping control_vector control_vectors",
        _ANOTHER_MODEL,
    ),
    **each("modalities", _MEDIA, [], ["text"]),
    **each("audio image_data mm_processor_kwargs images videos prompt_embeds input_embeds", _MEDIA),
    **each(
        "web_search_options web_search search_parameters mcp_servers plugins tool_resources container",
        "this server looks nothing up and runs nothing; give it 'tools' that the client runs",
    ),
    "web_search_options": RefusedParameter("this server looks nothing up; give it 'tools'", (None,)),
    **each("moderation guideline", "answers are not judged here"),
    **each("use_beam_search beam_search beam_width num_beams", _NO_SUCH_SAMPLER, False, 0, 1),
    **each("typical_p typical typ_p tfs_z tfs top_h", _NO_SUCH_SAMPLER, 1),
    **each(
        "mirostat mirostat_mode top_a epsilon_cutoff eta_cutoff dynatemp_range dynatemp smoothing_factor"
        " xtc_probability dry_multiplier no_repeat_ngram_size penalty_alpha skew temperature_last"
        " repetition_detection",
        _NO_SUCH_SAMPLER,
    ),
    **each("top_n_sigma nsigma adaptive_target", _NO_SUCH_SAMPLER, -1, 0),
    **each("guidance_scale cfg_scale encoder_repetition_penalty repetition_decay", _NO_SUCH_SAMPLER, 1),
    **each(
        "samplers sampler_seq sampler_order sampler_priority logit_processors logits_processors"
        " custom_logit_processor custom_params vllm_xargs negative_prompt min_keep",
        _NO_SUCH_SAMPLER,
    ),
    **each("do_sample", "set 'temperature' to 0", True),
    **each("watermark banned_tokens_strings", _NO_SUCH_SAMPLER),
    **dict.fromkeys(
        (
            *("repeat_last_n", "penalty_last_n", "rep_pen_range", "repetition_penalty_range"),
            *("repetition_context_size", "presence_context_size", "frequency_context_size"),
        ),
        RefusedParameter("penalties look at the whole text", _without_penalties),
    ),
    **each(
        "allowed_token_ids bad_words bad_words_ids banned_tokens suppress_tokens begin_suppress_tokens"
        " force_words_ids token_bans custom_token_bans sequence_bias",
        _HARD_LIMIT,
    ),
    **each("guided_structural_tag structural_tag grammar_triggers grammar_lazy", "there is no such grammar"),
    **each(
        "stop_regex stop_sequence stop_strings stopping_strings custom_stopping_strings antiprompt",
        "use 'stop'",
    ),
    **each("eos_token_id", "use 'stop_token_ids'", [], None),
    **each("ban_eos_token", "use 'ignore_eos'"),
    **each("random_seed sampler_seed", "use 'seed'", None),
    **each("min_new_tokens min_length", "use 'min_tokens'"),
    **each("rep_pen", "use 'repetition_penalty'", 1),
    **each("include_stop_str_in_output no_stop_trim", "an answer ends before what stops it"),
    **each("t_max_predict_ms t_max_prompt_ms max_time", "time is not bounded; use 'max_tokens'"),
    **each("n_indent num_predict max_length", "use 'max_tokens'", -1, *NOTHING),
    **each("thinking_token_budget reasoning_budget thinking_budget", "use 'reasoning_effort'", -1, None),
    **each("skip_special_tokens", "special tokens are never part of an answer", True),
    **each("include_reasoning separate_reasoning stream_reasoning", "thinking is always shown apart", True),
    **each("reasoning_format", "thinking is always shown apart", "", "auto", "deepseek", "deepseek-legacy"),
    **each("n best_of", "one answer is made for each request", 1, *NOTHING),
    **each("num_return_sequences", "use 'n'", 1, *NOTHING),
    **each("echo return_full_text", "the prompt is not said again here"),
    **each(
        "prompt_logprobs decoder_input_details top_n_tokens n_probs post_sampling_probs return_hidden_states"
        " return_tokens_as_token_ids return_token_ids return_tokens return_logprob logprob_token_ids"
        " response_fields details echo_logprobs",
        _OTHER_ANSWER,
        False,
        0,
        "",
        [],
    ),
    "prompt_logprobs": RefusedParameter("use /v1/completions with 'echo' and 'logprobs'", (None,)),
    **each("logprobs top_logprobs", _OTHER_ANSWER),
    **each("truncate_prompt_tokens truncate", "a prompt that is too long is refused"),
    **each("documents input_ids input_extra decoder_input_ids", _PROMPT),
    **each("template system_prompt input_prefix input_suffix raw transforms tool_prompt", _PROMPT),
    "add_generation_prompt": RefusedParameter(
        "the prompt goes on where the last message is the assistant's, else the assistant begins",
        _follows_the_last_message(False),
    ),
    "continue_final_message": RefusedParameter(
        "it is so exactly where the last message is the assistant's", _follows_the_last_message(True)
    ),
    "add_special_tokens": RefusedParameter("it is as the model was trained", _as_its_prompts_are),
    "add_special": RefusedParameter("it is as the model was trained", _as_its_prompts_are),
    **each("options extra_body generation_config generationConfig", "give these at the top of the request"),
    **each("preamble system_instruction systemInstruction chat_history", "give it among the messages"),
    **each("safe_prompt", _PROMPT),
    **each("prompt_mode", "use 'reasoning_effort' or 'enable_thinking'"),
    "text": RefusedParameter("use 'response_format'", _text_that_is_free),
    **each("num_ctx max_model_len max_context_length n_ctx", "the context is as long as the model's"),
    **each("think", "use 'reasoning_effort' or 'enable_thinking'"),
    **each(
        "response_schema response_mime_type output_schema output_format json_mode", "use 'response_format'"
    ),
    **each("max_output_tokens max_completion_tokens max_tokens", "this dialect has another name for it"),
    **each("response_format", "this dialect has another name for it", {"type": "text"}, *NOTHING),
    **each("functions function_call", "use 'tools'", "none", "auto", *NOTHING),
    **each("stop_sequences", "use 'stop'"),
    **each("suffix prefix", "it goes with /v1/completions only"),
    **each("system", "give a message with the role system"),
    **each("instructions", "give it as the system's message"),
    **each("previous_response_id conversation", "it goes with /v1/responses only"),
    **each("background", "answers are made while the client waits"),
    **each("tools", "use /v1/chat/completions"),
    **each(
        "chat_template_kwargs enable_thinking reasoning",
        "say how much it shall think in this dialect's words",
    ),
    **each("with_pieces return_token_strs", _OTHER_ANSWER),
}
PREFIXES = ("guided_",)  # every name with this prefix is a constraint
_HINTS = ("guided_decoding_backend", "guided_decoding_disable_fallback")


_OF_PROMPTS = {
    *(name for name, refusal in REFUSED.items() if refusal.why in (_ANOTHER_MODEL, _PROMPT)),
    *("add_generation_prompt", "continue_final_message", "add_special_tokens", "add_special"),
    *("with_pieces", "return_token_strs"),
}


def refuse(body: Body, schema: type[BaseModel]) -> None:
    """Raises UnsupportedParameter for a name that the schema lacks and whose value is not neutral.

    For a request that generates nothing, only the names that would change the prompt are refused, and its own.
    """
    generates = issubclass(schema, Sampled)
    own = getattr(schema, "REFUSES", {})
    for name in sorted(body.keys() - names_of(schema)):
        refusal = own.get(name)
        if refusal is None and (generates or name in _OF_PROMPTS):
            refusal = REFUSED.get(name)
        if refusal is None and name.startswith(PREFIXES) and name not in _HINTS:
            refusal = RefusedParameter("there is no such constraint")
        if refusal is not None and not refusal.allows(body[name], body):
            raise unsupported(name, refusal.why)


def names_of(schema: type[BaseModel]) -> set[str]:
    return {
        name for key, field in schema.model_fields.items() for name in _names(key, field.validation_alias)
    }


def _names(key: str, alias: Any) -> Iterable[str]:
    if isinstance(alias, AliasChoices):
        return [choice for choice in alias.choices if isinstance(choice, str)]
    return [alias if isinstance(alias, str) else key]
