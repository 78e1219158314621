"""Models of the transformers library, small and with random weights: their sites are what their configuration says."""

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from mcdropout.engine import Engine, Selection, UnsupportedModelError
from mcdropout.engine.masks import MaskSource
from mcdropout.engine.pytorch.find.discovery import discover
from mcdropout.engine.pytorch.signature import Signature

BOTH = pytest.mark.parametrize("attention", ["eager", "sdpa"])
WIDTH, INNER, HEADS, STEPS, LABELS = 16, 32, 2, 7, 3
TEXT = {"vocab_size": 50, "max_position_embeddings": 16, "num_labels": LABELS, "pad_token_id": 0}
LAYERS = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": 2, "num_attention_heads": HEADS}


@pytest.fixture(autouse=True)
def _same_weights_every_time():
    torch.manual_seed(0)


def words(rows=3):
    """Token ids, of which the last row has two that are padding."""
    torch.manual_seed(1)
    attended = torch.ones(rows, STEPS, dtype=torch.long)
    attended[-1, -2:] = 0
    return {"input_ids": torch.randint(5, 40, (rows, STEPS)), "attention_mask": attended}


def images(rows=3, side=8):
    torch.manual_seed(1)
    return {"pixel_values": torch.randn(rows, 1, side, side)}


def bert(attention):
    config = transformers.BertConfig(
        **TEXT,
        **LAYERS,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.2,
        classifier_dropout=0.3,
        attn_implementation=attention,
    )
    return transformers.BertForSequenceClassification(config), words()


def distilbert(attention):
    config = transformers.DistilBertConfig(
        **TEXT,
        dim=WIDTH,
        hidden_dim=INNER,
        n_layers=2,
        n_heads=HEADS,
        dropout=0.1,
        attention_dropout=0.2,
        seq_classif_dropout=0.3,
        attn_implementation=attention,
    )
    return transformers.DistilBertForSequenceClassification(config), words()


def gpt2(attention):
    config = transformers.GPT2Config(
        vocab_size=50,
        n_positions=16,
        n_embd=WIDTH,
        n_inner=INNER,
        n_layer=LAYERS["num_hidden_layers"],
        n_head=HEADS,
        num_labels=LABELS,
        pad_token_id=0,
        embd_pdrop=0.1,
        attn_pdrop=0.2,
        resid_pdrop=0.3,
        attn_implementation=attention,
    )
    return transformers.GPT2ForSequenceClassification(config), words()


def vit(attention):
    config = transformers.ViTConfig(
        **LAYERS,
        image_size=8,
        patch_size=4,
        num_channels=1,
        num_labels=LABELS,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.2,
        attn_implementation=attention,
    )
    return transformers.ViTForImageClassification(config), images()


def llama(attention):
    config = transformers.LlamaConfig(
        **TEXT, **LAYERS, num_key_value_heads=1, attention_dropout=0.1, attn_implementation=attention
    )
    return transformers.LlamaForSequenceClassification(config), words()


def expected(model, attention):
    """(path, kind, p, shape) of each site, from what the configuration says."""
    kind = "attention" if attention == "sdpa" else "element"  # eager attention calls F.dropout itself
    weights, hidden = (HEADS, STEPS, STEPS), (STEPS, WIDTH)
    if model is bert:
        layers = [
            site
            for layer in (f"bert.encoder.layer.{number}" for number in range(2))
            for site in (
                (f"{layer}.attention.self", kind, 0.2, weights),
                (f"{layer}.attention.output.dropout", "element", 0.1, hidden),
                (f"{layer}.output.dropout", "element", 0.1, hidden),
            )
        ]
        return [("bert.embeddings.dropout", "element", 0.1, hidden), *layers, ("dropout", "element", 0.3, (WIDTH,))]
    if model is distilbert:
        layers = [
            site
            for layer in (f"distilbert.transformer.layer.{number}" for number in range(2))
            for site in (
                (f"{layer}.attention", kind, 0.2, weights),
                (f"{layer}.ffn.dropout", "element", 0.1, hidden),
            )
        ]
        first = ("distilbert.embeddings.dropout", "element", 0.1, hidden)
        return [first, *layers, ("dropout", "element", 0.3, (WIDTH,))]
    if model is gpt2:
        layers = [
            site
            for layer in (f"transformer.h.{number}" for number in range(2))
            for site in (
                (f"{layer}.attn", kind, 0.2, weights),
                (f"{layer}.attn.resid_dropout", "element", 0.3, hidden),
                (f"{layer}.mlp.dropout", "element", 0.3, hidden),
            )
        ]
        return [("transformer.drop", "element", 0.1, hidden), *layers]
    if model is vit:
        patches, weights = (5, WIDTH), (HEADS, 5, 5)  # four and that of the class
        layers = [
            site
            for layer in (f"vit.layers.{number}" for number in range(2))
            for site in (
                (f"{layer}.attention", kind, 0.2, weights),
                (f"{layer}.dropout", "element", 0.1, patches),
                (f"{layer}.dropout", "element", 0.1, patches),
            )
        ]
        return [("vit.embeddings.dropout", "element", 0.1, patches), *layers]
    return [(f"model.layers.{number}.self_attn", kind, 0.1, weights) for number in range(2)]


def logits(model, inputs):
    with torch.no_grad():
        return model.eval()(**inputs).logits


def engine_of(model, inputs, runtime="torch", **options):
    return Engine.from_module(model, inputs, output="logits", runtime=runtime, **options)


class TestTheFiveBestKnown:
    @pytest.mark.wide
    @pytest.mark.parametrize(
        ("make", "attention"), [(bert, "eager"), *((make, "sdpa") for make in (bert, distilbert, gpt2, vit, llama))]
    )
    def test_have_the_sites_of_their_configuration_and_run_split(self, make, attention):
        model, inputs = make(attention)
        engine = engine_of(model, inputs)
        assert [(site.path, site.kind, site.p, site.shape) for site in engine.sites] == expected(make, attention)
        assert {(site.scope, site.in_eval) for site in engine.sites} == {("row", True)}
        assert engine.sites_off == ()
        assert (engine.program.strategy, engine.program.reason) == ("split", None)
        checks = {check.name: check for check in engine.program.checks}
        assert all(check.passed for check in checks.values())
        assert checks["the network with keep-everything masks equals its eval mode"].passed
        probabilities = logits(model, inputs).softmax(-1).numpy()
        np.testing.assert_allclose(engine.predict(inputs, 0).mean, probabilities, atol=1e-6)
        one = {name: value[-1:] for name, value in inputs.items()}
        np.testing.assert_allclose(engine.predict(one, 0).mean, probabilities[-1:], atol=1e-6)
        together, alone = engine.samples(inputs, 5, 1), engine.samples({k: v[:1] for k, v in inputs.items()}, 5, 1)
        np.testing.assert_allclose(together[:, :1], alone, atol=1e-6)
        assert engine.predict(inputs, 20, 1).variance.min() > 0

    @pytest.mark.wide
    @BOTH
    @pytest.mark.parametrize("make", [bert, distilbert, gpt2, vit, llama])
    def test_have_sites_of_which_each_has_another_effect(self, make, attention):
        model, inputs = make(attention)
        for parameter in model.parameters():  # weights as small as they begin hardly let attention count
            parameter.data.mul_(5.0)
        network = discover(model, tuple(inputs.values()), Signature(tuple(inputs), outputs=("logits",))).network
        masks = [torch.from_numpy(mask) for mask in MaskSource(network.sites).keep_everything(3)]
        (plain,) = network.run(tuple(inputs.values()), masks)
        torch.testing.assert_close(plain, logits(model, inputs), rtol=1e-5, atol=1e-5)
        effects = []
        for index in range(len(masks)):
            dropped = list(masks)
            dropped[index] = masks[index].clone()
            dropped[index].flatten(1)[:, ::2] = 0.0
            effects.append(network.run(tuple(inputs.values()), dropped)[0] - plain)
            assert effects[-1].abs().max() > 1e-6
        for index, effect in enumerate(effects):
            assert all((effect - other).abs().max() > 1e-6 for other in effects[:index])


@pytest.mark.long
@pytest.mark.parametrize("make", [bert, gpt2, llama])
def test_examples_without_padding_are_good_for_requests_with_it(make, monkeypatch):
    monkeypatch.setitem(LAYERS, "num_hidden_layers", 1)
    model, inputs = make("sdpa")
    whole = {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])}
    engine, plain = engine_of(model, whole), engine_of(model, whole, "eager")
    np.testing.assert_allclose(engine.samples(inputs, 5, 1), plain.samples(inputs, 5, 1), atol=1e-6)
    np.testing.assert_allclose(engine.predict(inputs, 0).mean, logits(model, inputs).softmax(-1).numpy(), atol=1e-6)


@pytest.mark.long
def test_the_attention_of_both_implementations_is_the_same_under_the_same_masks():
    model, inputs = bert("eager")
    other, _ = bert("sdpa")
    other.load_state_dict(model.state_dict())
    samples = [engine_of(which, inputs, "eager").samples(inputs, 5, 1) for which in (model, other)]
    np.testing.assert_allclose(*samples, atol=1e-6)


def paths(engine):
    return [site.path for site in engine.sites]


class TestOthersThatDropInTheirOwnWay:
    @pytest.mark.long
    def test_drop_path_of_convnext_is_a_site_where_its_rate_is_above_0(self):
        config = transformers.ConvNextConfig(
            num_channels=1,
            patch_size=2,
            num_stages=2,
            hidden_sizes=[8, 8],
            depths=[1, 2],
            num_labels=LABELS,
            drop_path_rate=0.4,
        )
        engine = engine_of(transformers.ConvNextForImageClassification(config), images(side=16), "eager")
        assert [(site.path, site.kind, site.shape) for site in engine.sites] == [
            (f"convnext.encoder.stages.1.layers.{layer}.drop_path", "uniform", (1, 1, 1)) for layer in range(2)
        ]

    @pytest.mark.long
    def test_windows_of_swin_have_masks_of_their_own(self):
        config = transformers.SwinConfig(
            image_size=8,
            patch_size=2,
            num_channels=1,
            embed_dim=8,
            depths=[2],
            num_heads=[2],
            window_size=2,
            num_labels=LABELS,
            drop_path_rate=0.3,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.2,
        )
        model = transformers.SwinForImageClassification(config)
        engine, plain = engine_of(model, images()), engine_of(model, images(), "eager")
        assert engine.program.strategy == "split"
        attention = [(site.p, site.shape, site.rows_per_row) for site in engine.sites if site.kind == "attention"]
        assert attention == [(0.2, (4, 2, 4, 4), 4)] * 2
        assert [site.path for site in engine.sites if site.raw] == ["swin.encoder.layers.0.blocks.1.drop_path"]
        np.testing.assert_allclose(engine.samples(images(), 5, 1), plain.samples(images(), 5, 1), atol=1e-6)

    @pytest.mark.long
    def test_drop_path_inside_drop_path_of_poolformer_is_a_site(self):
        config = transformers.PoolFormerConfig(
            num_channels=1, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], num_labels=LABELS, drop_path_rate=0.6
        )
        engine = engine_of(transformers.PoolFormerForImageClassification(config), images(side=64), "eager")
        assert paths(engine) == [
            f"poolformer.encoder.block.{stage}.0.{drop}"
            for stage in (1, 2, 3)
            for drop in ("drop_path", "output.drop", "output.drop", "drop_path")
        ]

    def test_layers_of_albert_that_share_their_weights_draw_a_mask_each(self):
        config = transformers.AlbertConfig(
            **TEXT, **LAYERS, embedding_size=8, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1
        )
        engine = engine_of(transformers.AlbertForSequenceClassification(config), words(), "eager")
        layer = "albert.encoder.albert_layer_groups.0.albert_layers.0.attention"
        assert [site.name for site in engine.sites if site.kind == "attention"] == [layer, f"{layer}#1"]

    @pytest.mark.long
    def test_positions_that_deberta_drops_are_drawn_once_a_pass(self):
        config = transformers.DebertaV2Config(
            **TEXT, **LAYERS, relative_attention=True, pos_att_type=["p2c", "c2p"], type_vocab_size=0
        )
        engine = engine_of(transformers.DebertaV2ForSequenceClassification(config), words(), "eager")
        assert [(site.path.rpartition(".")[2], site.scope) for site in engine.sites if site.kind == "dropconnect"] == [
            ("pos_dropout", "pass")
        ] * 2
        assert not engine.shares_rows

    @pytest.mark.long
    def test_encoder_and_decoder_of_bart_have_theirs_and_those_with_p_of_0_are_off(self):
        config = transformers.BartConfig(
            **TEXT,
            d_model=WIDTH,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=HEADS,
            decoder_attention_heads=HEADS,
            encoder_ffn_dim=INNER,
            decoder_ffn_dim=INNER,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=2,
            dropout=0.1,
            attention_dropout=0.2,
            classifier_dropout=0.3,
        )
        inputs = {"input_ids": words()["input_ids"].index_fill(1, torch.tensor([STEPS - 1]), 2)}
        engine = engine_of(transformers.BartForSequenceClassification(config), inputs, "eager")
        assert [site.path for site in engine.sites if site.kind == "attention"] == [
            "model.encoder.layers.0.self_attn",
            "model.decoder.layers.0.self_attn",
            "model.decoder.layers.0.encoder_attn",
        ]
        assert {site.reason for site in engine.sites_off} == {"its p is 0"}

    @pytest.mark.long
    def test_the_encoder_of_t5_serves_a_head_of_ones_own(self):
        class Classifier(nn.Module):
            def __init__(self, config):
                super().__init__()
                self.encoder = transformers.T5EncoderModel(config)
                self.head = nn.Linear(config.d_model, LABELS)

            def forward(self, input_ids, attention_mask):
                return self.head(self.encoder(input_ids, attention_mask).last_hidden_state[:, 0])

        config = transformers.T5Config(vocab_size=50, d_model=WIDTH, d_kv=8, d_ff=INNER, num_layers=1, num_heads=HEADS)
        engine = Engine.from_module(Classifier(config), words(), runtime="torch")
        assert engine.program.strategy == "split"
        assert paths(engine) == [
            "encoder.encoder.dropout",
            "encoder.encoder.block.0.layer.0.SelfAttention",
            "encoder.encoder.block.0.layer.0.dropout",
            "encoder.encoder.block.0.layer.1.DenseReluDense.dropout",
            "encoder.encoder.block.0.layer.1.dropout",
            "encoder.encoder.dropout",
        ]

    @pytest.mark.long
    def test_all_of_t5_runs_split_though_it_picks_tokens_by_their_value(self):
        config = transformers.T5Config(
            vocab_size=50,
            d_model=WIDTH,
            d_kv=8,
            d_ff=INNER,
            num_layers=1,
            num_heads=HEADS,
            num_labels=LABELS,
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
        )
        inputs = {"input_ids": words()["input_ids"].index_fill(1, torch.tensor([STEPS - 1]), 1)}
        engine = engine_of(transformers.T5ForSequenceClassification(config), inputs)
        assert (engine.program.strategy, engine.program.reason) == ("split", None)
        kinds = [site.path.rpartition(".")[2] for site in engine.sites if site.kind == "attention"]
        assert kinds == ["SelfAttention", "SelfAttention", "EncDecAttention"]

    @pytest.mark.long
    def test_jitter_of_mixtrals_router_is_a_site(self):
        config = transformers.MixtralConfig(
            **TEXT, **{**LAYERS, "num_hidden_layers": 1}, num_key_value_heads=1, num_local_experts=2
        )
        config.router_jitter_noise = 0.1
        engine = engine_of(transformers.MixtralForSequenceClassification(config), words(), "eager")
        assert [(site.path, site.kind, site.shape) for site in engine.sites] == [
            ("model.layers.0.mlp", "uniform", (STEPS, WIDTH))
        ]


def speech(**options):
    config = transformers.Wav2Vec2Config(
        **LAYERS,
        conv_dim=(16, 16),
        conv_stride=(5, 4),
        conv_kernel=(10, 8),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        num_labels=LABELS,
        classifier_proj_size=8,
        feat_extract_norm="layer",
        **options,
    )
    torch.manual_seed(1)
    return transformers.Wav2Vec2ForSequenceClassification(config), {"input_values": torch.randn(3, 400)}


class TestSpeech:
    @pytest.mark.long
    def test_layers_that_wav2vec2_drops_as_a_whole_are_sites_of_a_pass(self):
        model, inputs = speech(layerdrop=0.3, apply_spec_augment=False)
        engine = engine_of(model, inputs, "eager")
        assert [(site.path, site.scope, site.shape) for site in engine.sites if site.raw] == [
            ("wav2vec2.encoder", "pass", ())
        ] * 2
        assert engine.program.strategy == "whole"
        np.testing.assert_allclose(engine.predict(inputs, 0).mean, logits(model, inputs).softmax(-1), atol=1e-6)
        assert engine.predict(inputs, 20, 1).variance.min() > 0

    @pytest.mark.long
    def test_stretches_of_speech_that_numpy_masks_are_refused_with_the_module_that_can_be_excluded(self):
        model, inputs = speech()  # as they are by default
        with pytest.raises(UnsupportedModelError, match=r"numpy\.random in wav2vec2; .* that the selection excludes"):
            engine_of(model, inputs, "eager")
        selection = Selection(exclude=("wav2vec2",))
        engine = Engine.from_module(model, inputs, output="logits", runtime="eager", selection=selection)
        assert "wav2vec2" not in [site.path for site in engine.sites]
        np.testing.assert_allclose(engine.predict(inputs, 0).mean, logits(model, inputs).softmax(-1), atol=1e-6)
        assert engine.predict(inputs, 20, 1).variance.min() > 0

    def test_and_whisper_drops_within_functions_of_its_own(self):
        config = transformers.WhisperConfig(
            d_model=WIDTH,
            encoder_layers=1,
            encoder_attention_heads=HEADS,
            encoder_ffn_dim=INNER,
            num_mel_bins=8,
            max_source_positions=10,
            num_labels=LABELS,
            classifier_proj_size=8,
            dropout=0.1,
            attention_dropout=0.2,
            activation_dropout=0.3,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
        model = transformers.WhisperForAudioClassification(config)
        engine = engine_of(model, {"input_features": torch.randn(3, 8, 20)}, "eager")
        assert [(site.name, site.kind, site.p) for site in engine.sites] == [
            ("encoder", "element", 0.1),
            ("encoder.layers.0.self_attn", "attention", 0.2),
            ("encoder.layers.0", "element", 0.1),
            ("encoder.layers.0#1", "element", 0.3),
            ("encoder.layers.0#2", "element", 0.1),
        ]


def test_images_that_are_masked_at_random_in_eval_mode_too_are_refused():
    config = transformers.ViTMAEConfig(
        **{**LAYERS, "num_hidden_layers": 1},
        image_size=8,
        patch_size=4,
        num_channels=1,
        decoder_num_attention_heads=HEADS,
        decoder_hidden_size=WIDTH,
        decoder_num_hidden_layers=1,
        decoder_intermediate_size=INNER,
    )
    with pytest.raises(UnsupportedModelError, match=r"vit.embeddings draws uniform numbers in eval mode too"):
        engine_of(transformers.ViTMAEForPreTraining(config), images())
