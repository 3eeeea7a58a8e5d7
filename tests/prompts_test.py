"""`python -m semdiff.prompts`: texts through an encoder; T5 and CLIP themselves where transformers is installed."""

import json

import numpy as np
import pytest

from semdiff import prompts
from semdiff.data import prompts as files

CAPTIONS = [("a", "one"), ("a", "one two"), ("b", "one two three"), ("c", "")]
LENGTH, WIDTH = 4, 2


@pytest.fixture
def encoded(tmp_path, monkeypatch):
    """encoded(*flags): (exit code, texts that were encoded), by a toy whose states are the number of words."""
    (tmp_path / "t5").mkdir()
    (tmp_path / "t5" / "model.safetensors").write_bytes(b"weights")
    lines = [
        json.dumps({"image": name, "caption": text or "four of these words here"}) for name, text in CAPTIONS
    ]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(files, "SHARD", 2)
    seen: list[str] = []

    def encode(texts):
        seen.extend(texts)
        counts = [min(len(text.split()), LENGTH) for text in texts]
        return [np.full((count, WIDTH), count, np.float32) for count in counts]

    monkeypatch.setattr(prompts, "opened", lambda *_: (encode, (LENGTH, WIDTH)))

    def run(*flags):
        seen.clear()
        given = [str(tmp_path / "t5"), str(tmp_path / "out"), "--captions", str(tmp_path / "captions.jsonl")]
        return prompts.main([*given, *flags]), list(seen)

    return run


def test_every_caption_is_encoded_once_whoever_does_it(encoded, tmp_path):
    assert encoded("--part=1/2") == (0, ["one two three", "four of these words here"])
    assert not (tmp_path / "out" / files.ABOUT).exists()
    assert encoded() == (0, ["one", "one two"])  # the rest
    assert encoded() == (0, [])
    found = files.read(tmp_path / "out")
    assert found.rows == {"a": [0, 1], "b": [2], "c": [3]}
    assert [found.of_row(i)[:, 0].tolist() for i in range(4)] == [
        [1, 0, 0, 0],
        [2, 2, 0, 0],
        [3] * 3 + [0],
        [4] * 4,
    ]
    assert (found.encoder.name, len(found.encoder.digest), found.table) == ("t5", 16, None)


def test_a_folder_is_gone_on_with_by_the_same_command_alone(encoded, tmp_path, capsys):
    assert encoded("--part=0/2")[0] == 0
    assert encoded("--prompt", "a street")[0] == 1
    assert "was begun with another texts" in capsys.readouterr().err
    (tmp_path / "t5" / "model.safetensors").write_bytes(b"others")
    assert encoded()[0] == 1
    assert "was begun with another encoder" in capsys.readouterr().err


def test_prompts_are_padded_as_captions_are(encoded, tmp_path):
    assert encoded("--prompt", "a street", "--negative", "blurred")[0] == 0
    assert files.read(tmp_path / "out").table[:, :, 0].tolist() == [[1, 0, 0, 0], [2, 2, 0, 0]]


def test_what_is_no_encoder_is_refused_in_words(tmp_path, capsys):
    assert prompts.main([str(tmp_path), str(tmp_path / "out"), "--prompt", "a street"]) == 1
    assert "is neither T5 as transformers keeps it" in capsys.readouterr().err
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert prompts.main([str(tmp_path), str(tmp_path / "out"), "--prompt", "a street"]) == 1
    assert "model_type is 'bert'; expected t5" in capsys.readouterr().err
    assert prompts.main([str(tmp_path), str(tmp_path / "out")]) == 1
    assert "nothing to encode" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_t5_as_transformers_keeps_it(tmp_path):
    """States are those of the network itself, text by text: what others are in a batch changes nothing."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", "a", "street", "at", "night"])}
    own = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    own.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    own.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=own, **special)
    tokenizer.save_pretrained(tmp_path / "t5")
    settings = transformers.T5Config(vocab_size=7, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    torch.manual_seed(0)
    network = transformers.T5EncoderModel(settings).eval()
    network.save_pretrained(tmp_path / "t5")
    (tmp_path / "captions.txt").write_text(
        "a street at night\na street\nstreet street street street street\n"
    )
    given = [
        str(tmp_path / "t5"),
        str(tmp_path / "out"),
        "--captions",
        str(tmp_path / "captions.txt"),
        "--length",
        "5",
    ]
    assert prompts.main(given) == 0
    found = files.read(tmp_path / "out")
    assert found.shape == (5, 8)
    for row, ids in enumerate(([3, 4, 5, 6, 1], [3, 4, 1], [4, 4, 4, 4, 1])):
        with torch.no_grad():
            states = network(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()
        made = found.of_row(row)
        np.testing.assert_allclose(made[: len(ids)], states, rtol=2e-3, atol=2e-3)
        assert (made[len(ids) :] == 0).all()


def test_clip_of_stable_diffusion_as_diffusers_keeps_it(tmp_path):
    """All its states, also those behind a text's end: such networks attend to them."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    source = tmp_path / "sd"
    (source / "tokenizer").mkdir(parents=True)
    words = ["a", "a</w>", "b", "b</w>", "ab</w>", "<|startoftext|>", "<|endoftext|>"]
    (source / "tokenizer" / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (source / "tokenizer" / "merges.txt").write_text("#version: 0.2\na b</w>\n")
    (source / "tokenizer" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 6, "pad_token": "<|endoftext|>"})
    )
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    settings = transformers.CLIPTextConfig(
        vocab_size=7, max_position_embeddings=6, bos_token_id=5, eos_token_id=6, pad_token_id=6, **sizes
    )
    torch.manual_seed(0)
    network = transformers.CLIPTextModel(settings).eval()
    network.save_pretrained(source / "text_encoder")
    given = [str(source), str(tmp_path / "out"), "--prompt", "ab a", "--negative", "b"]
    assert prompts.main(given) == 0
    found = files.read(tmp_path / "out")
    assert found.shape == (6, 8)
    for made, ids in zip(found.table, ([5, 3, 6, 6, 6, 6], [5, 4, 1, 6, 6, 6])):
        with torch.no_grad():
            states = network(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()
        np.testing.assert_allclose(made, states, rtol=1e-5, atol=1e-6)
    assert prompts.main([*given[:2], "--captions", "x.txt"]) == 1
