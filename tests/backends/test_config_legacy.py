"""What KernelAgent's users have, taken from its documentation, and what it becomes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backends import config, config_legacy
from backends.config import ModelSettings, Settings

# config_examples/deepseek_r1_config.json of KernelAgent.
EXAMPLE = {
    "backend_type": "deepseek-r1",
    "deepseek-r1": {
        "model_path": "/path/to/deepseek-r1-0528.gguf",
        "n_ctx": 32768,
        "n_gpu_layers": -1,
        "verbose": False,
    },
    "openai": {
        "model_name": "o3-2025-04-16",
        "api_key": "your-openai-api-key-here",
        "high_reasoning_effort": True,
    },
    "llama-cpp": {
        "model_name": "custom-llama-model",
        "model_path": "/path/to/your/model.gguf",
        "n_ctx": 32768,
        "n_gpu_layers": -1,
        "verbose": False,
    },
}
OPENAI = ModelSettings(
    endpoint="https://api.openai.com/v1",
    profile="openai",
    remote_model="o3",
    api_key_env="OPENAI_API_KEY",
)


def from_json(tmp_path: Path, values: object) -> tuple[Settings, list[str]]:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(values, indent=2))
    settings, problems = config.load(file, {})
    return settings, [f"{p.line}: {p.message}" for p in problems]


def from_environment(text: str = "", **environment: str) -> tuple[Settings, list[str]]:
    settings, problems = config.load(Path("/nowhere/config.toml"), environment)
    return settings, [str(problem) for problem in problems]


def test_json_example_of_kernelagent_is_understood(tmp_path: Path) -> None:
    settings, problems = from_json(tmp_path, EXAMPLE)
    local = {"context_length": 32768, "gpu_layers": -1}
    assert settings.models == {
        "deepseek-r1": ModelSettings(path="/path/to/deepseek-r1-0528.gguf", **local),
        "openai": ModelSettings(
            endpoint="https://api.openai.com/v1",
            profile="openai",
            remote_model="o3-2025-04-16",
            reasoning_effort="high",
            api_key_env="OPENAI_API_KEY",
        ),
        "llama-cpp": ModelSettings(path="/path/to/your/model.gguf", **local),
    }
    assert (settings.completion.model, settings.chat.model) == ("", "deepseek-r1")
    assert problems == [
        "11: 'api_key' would hold a key, and keys are never kept in the configuration: say where "
        "it is with api_key_env, api_key_file or api_key_keyring",
        "15: 'model_name' has no equivalent: the model is called llama-cpp here",
    ]


def test_json_memory_example_of_kernelagent_is_understood(tmp_path: Path) -> None:
    table = {
        "model_path": "/m.gguf",
        "n_ctx": 16384,
        "n_gpu_layers": 20,
        "n_threads": 8,
        "n_batch": 512,
        "low_vram": True,
        "mmap": True,
        "mlock": False,
        "f16_kv": False,
    }
    settings, problems = from_json(tmp_path, {"backend_type": "llama-cpp", "llama-cpp": table})
    assert problems == []
    assert settings.models["llama-cpp"] == ModelSettings(
        path="/m.gguf",
        context_length=16384,
        gpu_layers=20,
        threads=8,
        batch=512,
        low_vram=True,
        mmap=True,
        mlock=False,
        kv_type="f32",
    )
    assert (settings.completion.model, settings.chat.model) == ("llama-cpp", "llama-cpp")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"temperature": 0.1}, "'temperature' has no equivalent: sampling belongs to each request"),
        ({"n_ctxx": 1}, "'n_ctxx' is unknown; did you mean 'n_ctx'?"),
        ({"n_ctx": "many"}, "'context_length' must be a whole number of at least 0, not 'many'"),
        ({"f16_kv": "no"}, "'f16_kv' must be true or false, not str"),
        ({"proxy_config": "http://p"}, "'proxy_config' must be an object, not str"),
    ],
)
def test_json_key_that_cannot_be_taken_is_named_at_its_line(
    tmp_path: Path, table: dict[str, Any], said: str
) -> None:
    values = {"llama-cpp": {"model_path": "/m.gguf", **table}}
    settings, (problem,) = from_json(tmp_path, values)
    assert problem.startswith("4: ")
    assert said in problem
    assert settings.models["llama-cpp"].path == "/m.gguf"


def test_json_proxy_and_our_own_tables_are_taken(tmp_path: Path) -> None:
    settings, problems = from_json(
        tmp_path,
        {
            "openai": {"model_name": "o3", "proxy_config": {"https_proxy": "http://p:1"}},
            "manager": {"port": 7},
        },
    )
    assert problems == []
    assert settings.models["openai"].proxy == "http://p:1"
    assert settings.manager.port == 7
    assert settings.chat.model == ""  # nothing selects it


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"backend_type": "gpt"}, "must be one of openai, deepseek-r1, llama-cpp, not 'gpt'"),
        ({"backend_type": "openai"}, "asks for openai, but OPENAI_MODEL is not set"),
        ({"llama-cpp": {}, "openai": 3}, "must be an object"),
    ],
)
def test_json_that_selects_nothing_says_why(
    tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    settings, problems = from_json(tmp_path, values)
    assert any(said in problem for problem in problems)
    assert settings.chat.model == ""


def test_overrides_in_code_may_be_kernelagents_dictionary() -> None:
    settings, problems = config.load(
        Path("/nowhere/config.toml"),
        {},
        overrides={"backend_type": "llama-cpp", "llama-cpp": {"model_path": "/m.gguf"}},
    )
    assert (problems, settings.completion.model) == ([], "llama-cpp")
    assert settings.models["llama-cpp"].path == "/m.gguf"


# --- the environment ----------------------------------------------------------------------------


def test_environment_of_the_quick_start_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    settings, problems = from_environment(
        MODEL_BACKEND="deepseek-r1",
        DEEPSEEK_R1_MODEL_PATH="./models/r1.gguf",
        DEEPSEEK_R1_N_CTX="8192",
        DEEPSEEK_R1_N_GPU_LAYERS="-1",
        OPENAI_API_KEY="sk-x",
        OPENAI_MODEL="o3",
    )
    assert problems == []
    assert settings.models == {
        "deepseek-r1": ModelSettings(path="/models/r1.gguf", context_length=8192, gpu_layers=-1)
    }
    assert (settings.completion.model, settings.chat.model) == ("", "deepseek-r1")


@pytest.mark.parametrize(
    "environment",
    [
        {"OPENAI_API_KEY": "sk-x"},
        {"OPENAI_API_KEY": "sk-x", "OPENAI_MODEL": "o3", "OPENAI_BASE_URL": "http://h/v1"},
        {"DEEPSEEK_R1_BASE_URL": "http://h", "DEEPSEEK_R1_MODEL": "r1", "DEEPSEEK_R1_API_KEY": "k"},
        {"MODEL_BACKEND": "", "OPENAI_MODEL": "o3"},
    ],
)
def test_environment_alone_makes_no_remote_model(environment: dict[str, str]) -> None:
    assert from_environment(**environment) == (Settings(), [])


@pytest.mark.parametrize(
    "selecting",
    [{"MODEL_BACKEND": "openai"}, {"MODEL_BACKEND": "OpenAI"}, {"MIDSPAN_CHAT_MODEL": "openai"}],
)
def test_environment_makes_a_remote_model_that_is_selected(selecting: dict[str, str]) -> None:
    settings, problems = from_environment(OPENAI_API_KEY="sk-x", OPENAI_MODEL="o3", **selecting)
    assert problems == []
    assert settings.models == {"openai": OPENAI}
    assert (settings.completion.model, settings.chat.model) == ("", "openai")
    assert "sk-x" not in repr(settings)


def test_environment_does_not_redirect_a_model_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[chat]\nmodel = "openai"\n[models.openai]\nendpoint = "http://mine/v1"\n')
    environment = {"OPENAI_BASE_URL": "http://elsewhere/v1", "OPENAI_API_KEY": "sk"}
    settings, problems = config.load(file, environment)
    assert problems == []
    assert settings.models == {"openai": ModelSettings(endpoint="http://mine/v1")}
    # Asked for by name, they are meant; but what the file says of the key stays.
    file.write_text('[models.openai]\napi_key_file = "/k"\nendpoint = "http://mine/v1"\n')
    asked = {**environment, "MODEL_BACKEND": "openai", "OPENAI_MODEL": "o3"}
    settings, problems = config.load(file, asked)
    assert problems == []
    assert settings.models["openai"] == ModelSettings(
        endpoint="http://elsewhere/v1", api_key_file="/k", profile="openai", remote_model="o3"
    )


def test_environment_makes_deepseek_at_an_endpoint_when_asked() -> None:
    settings, problems = from_environment(
        MODEL_BACKEND="deepseek_r1",
        DEEPSEEK_R1_BASE_URL="https://api.deepseek.com",
        DEEPSEEK_R1_MODEL="deepseek-reasoner",
        DEEPSEEK_R1_API_KEY="sk-x",
    )
    assert problems == []
    assert settings.models["deepseek-r1"] == ModelSettings(
        endpoint="https://api.deepseek.com",
        remote_model="deepseek-reasoner",
        api_key_env="DEEPSEEK_R1_API_KEY",
    )


def test_environment_of_a_file_does_not_also_make_it_remote() -> None:
    settings, problems = from_environment(
        DEEPSEEK_R1_MODEL_PATH="/m.gguf", DEEPSEEK_R1_BASE_URL="http://h"
    )
    assert settings.models["deepseek-r1"] == ModelSettings(path="/m.gguf")
    assert problems == ["DEEPSEEK_R1_BASE_URL: is not used, because DEEPSEEK_R1_MODEL_PATH is set"]


@pytest.mark.parametrize(
    ("key", "field"),
    [item for item in config_legacy.FIELDS.items() if item[0] not in config_legacy.JSON_ONLY],
)
def test_environment_name_for_each_field(key: str, field: str) -> None:
    kinds = {"f16_kv": ("0", "f32"), "high_reasoning_effort": ("1", "high")}
    default = getattr(ModelSettings(), field)
    if key in kinds:
        text, value = kinds[key]
    elif isinstance(default, bool):
        text, value = str(not default), not default
    elif isinstance(default, str):
        text, value = "http://h/x", "http://h/x"
    else:
        text, value = "3", 3
    variables = {"LLAMA_CPP_MODEL_PATH": "/m.gguf", f"LLAMA_CPP_{key.upper()}": text}
    if field == "path":
        variables["LLAMA_CPP_MODEL_PATH"] = value = "/other.gguf"
    if field == "endpoint":
        del variables["LLAMA_CPP_MODEL_PATH"]
        variables |= {"LLAMA_CPP_MODEL": "x", "MODEL_BACKEND": "llama-cpp"}
    settings, problems = from_environment(**variables)
    assert problems == []
    assert getattr(settings.models["llama-cpp"], field) == value


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"LLAMA_CPP_N_CTX": "big"}, "LLAMA_CPP_N_CTX: must be a whole number of at least 0"),
        ({"LLAMA_CPP_F16_KV": "perhaps"}, "LLAMA_CPP_F16_KV: must be true or false"),
        ({"LLAMA_CPP_SEED": "1"}, "LLAMA_CPP_SEED: has no equivalent: sampling belongs"),
        ({"MODEL_BACKEND": "openai"}, "MODEL_BACKEND: asks for openai, but OPENAI_MODEL is not"),
        ({"MODEL_BACKEND": "vllm"}, "MODEL_BACKEND: must be one of openai, deepseek-r1, llama-cpp"),
        ({"MIDSPAN_CHAT_MODEL": "openai"}, "OPENAI_MODEL: must be set: the model 'openai' is sel"),
        (
            {"MODEL_BACKEND": "deepseek-r1"},
            "MODEL_BACKEND: asks for deepseek-r1, but DEEPSEEK_R1_MODEL_PATH is not set",
        ),
    ],
)
def test_environment_that_cannot_be_meant_is_named(variables: dict[str, str], said: str) -> None:
    _, (problem,) = from_environment(LLAMA_CPP_MODEL_PATH="/m.gguf", **variables)
    assert problem.startswith(said)


def test_other_tools_variables_of_the_same_beginning_are_left_alone() -> None:
    _, problems = from_environment(
        LLAMA_CPP_MODEL_PATH="/m.gguf", LLAMA_CPP_LIB="/x.so", OPENAI_ORG_ID="o", HTTP_PROXY="x"
    )
    assert problems == []
