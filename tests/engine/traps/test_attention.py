"""Traps of attention: probabilities that are gone in eval mode, fused paths, masks of its own."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mcdropout.engine import Engine, VerificationError
from mcdropout.engine.pytorch.attention import attention
from tests.engine.networks import Custom
from tests.engine.traps.common import drawn, find, has_eval_mode_and_every_site_has_an_effect, kept, names, ran, same


def multi_head(attending, queries, keys, weights_mask, blocked=None):
    """Multi-head attention of `[rows, length, features]`, written out, with a mask on its weights."""
    rows, length, features = queries.shape
    weights, biases = attending.in_proj_weight.chunk(3), attending.in_proj_bias.chunk(3)
    q, k, v = (
        F.linear(x, weight, bias).unflatten(-1, (attending.num_heads, -1)).transpose(1, 2)
        for x, weight, bias in zip((queries, keys, keys), weights, biases, strict=True)
    )
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    if blocked is not None:
        scores = scores.masked_fill(blocked[:, None, None, :], -torch.inf)
    mixed = (scores.softmax(-1) * weights_mask) @ v
    return attending.out_proj(mixed.transpose(1, 2).reshape(rows, length, features))


def encoder_layer(layer, x, masks, blocked=None):
    """A transformer encoder layer that normalizes last, written out."""
    weights, after_attention, inner, after = masks
    x = layer.norm1(x + multi_head(layer.self_attn, x, x, weights, blocked) * after_attention)
    return layer.norm2(x + layer.linear2(torch.relu(layer.linear1(x)) * inner) * after)


class TestTransformersThatTakeAFastPathInEvalMode:
    @staticmethod
    def layer(batch_first=True):
        return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.3, batch_first=batch_first)

    SITES = ("self_attn", "dropout1", "dropout", "dropout2")

    def test_a_layer(self):
        layer = self.layer()
        network = find(layer, torch.randn(2, 5, 8))
        assert names(network) == list(self.SITES)
        x, masks = torch.randn(3, 5, 8), drawn(network, 3)
        same(ran(network, x, masks=masks), encoder_layer(layer, x, masks))
        has_eval_mode_and_every_site_has_an_effect(layer, network, x)

    @pytest.mark.parametrize("batch_first", [True, False])
    def test_an_encoder(self, batch_first):
        def forward(self, x):
            return self.encoder(x) if batch_first else self.encoder(x.transpose(0, 1)).transpose(0, 1)

        encoder = nn.TransformerEncoder(self.layer(batch_first), 2, enable_nested_tensor=batch_first)
        module = Custom(forward, encoder=encoder)
        network = find(module, torch.randn(2, 5, 8))
        assert names(network) == [f"encoder.layers.{layer}.{site}" for layer in range(2) for site in self.SITES]
        x, masks = torch.randn(3, 5, 8), drawn(network, 3)
        wanted = encoder_layer(encoder.layers[1], encoder_layer(encoder.layers[0], x, masks[:4]), masks[4:])
        same(ran(network, x, masks=masks), wanted)
        has_eval_mode_and_every_site_has_an_effect(module, network, x)

    def test_an_encoder_with_padding(self):
        encoder = nn.TransformerEncoder(self.layer(), 2)
        first = Custom(lambda self, x, ends: self.encoder(x, src_key_padding_mask=ends)[:, 0], encoder=encoder)
        x, ends = torch.randn(3, 5, 8), torch.arange(5) >= torch.tensor([[5], [3], [4]])
        network = find(first, x, ends)
        assert len(network.sites) == 8
        masks = drawn(network, 3)
        hidden = encoder_layer(encoder.layers[0], x, masks[:4], ends)
        same(ran(network, x, ends, masks=masks), encoder_layer(encoder.layers[1], hidden, masks[4:], ends)[:, 0])
        has_eval_mode_and_every_site_has_an_effect(first, network, x, ends)

    def test_an_encoder_whose_eval_mode_zeroes_what_is_padded_is_refused_with_the_remedy(self):
        mean = Custom(lambda self, x, ends: self.encoder(x, src_key_padding_mask=ends).mean(1))
        x, ends = torch.randn(3, 5, 8), torch.arange(5) >= torch.tensor([[5], [3], [4]])
        mean.encoder = nn.TransformerEncoder(self.layer(), 2)
        with pytest.raises(VerificationError, match=r"equals its eval mode.*enable_nested_tensor=False"):
            Engine.from_module(mean, (x, ends), runtime="eager")
        mean.encoder = nn.TransformerEncoder(self.layer(), 2, enable_nested_tensor=False)
        assert len(Engine.from_module(mean, (x, ends), runtime="eager").sites) == 8

    @pytest.mark.wide
    @pytest.mark.parametrize(("nested", "pooled"), [(True, "most"), (False, "most"), (True, "masked mean")])
    def test_an_encoder_whose_eval_mode_zeroes_what_is_padded_is_refused_though_no_example_is(self, nested, pooled):
        def forward(self, ids):
            hidden, there = self.encoder(self.words(ids), src_key_padding_mask=ids == 0), (ids != 0).unsqueeze(-1)
            return self.out((hidden * there).sum(1) / there.sum(1) if pooled == "masked mean" else hidden.amax(1))

        encoder = nn.TransformerEncoder(self.layer(), 2, enable_nested_tensor=nested)
        module = Custom(forward, words=nn.Embedding(20, 8), encoder=encoder, out=nn.Linear(8, 3)).eval()
        ids = torch.randint(1, 20, (3, 7))
        if nested and pooled == "most":
            with pytest.raises(
                VerificationError, match=r"eval mode \(with .*encoder writes 0.*enable_nested_tensor=False"
            ):
                Engine.from_module(module, ids, "regression")
            return
        engine = Engine.from_module(module, ids, "regression")
        ids[1, 3:], ids[2, 5:] = 0, 0
        with torch.no_grad():
            wanted = torch.cat([module(ids[row : row + 1]) for row in range(3)])
        np.testing.assert_allclose(engine.predict(ids, passes=0).mean, wanted, atol=1e-5)

    def test_a_transformer_of_encoder_and_decoder(self):
        module = nn.Transformer(8, 2, 1, 1, 16, dropout=0.3, batch_first=True)
        network = find(module, torch.randn(2, 5, 8), torch.randn(2, 4, 8))
        decoder = ("self_attn", "dropout1", "multihead_attn", "dropout2", "dropout", "dropout3")
        assert names(network) == [
            *(f"encoder.layers.0.{site}" for site in self.SITES),
            *(f"decoder.layers.0.{site}" for site in decoder),
        ]
        assert [site.shape for site in network.sites if site.kind == "attention"] == [(2, 5, 5), (2, 4, 4), (2, 4, 5)]
        has_eval_mode_and_every_site_has_an_effect(module, network, torch.randn(3, 5, 8), torch.randn(3, 4, 8))


class TestMultiHeadAttention:
    @pytest.mark.parametrize("batch_first", [True, False])
    @pytest.mark.parametrize("need_weights", [True, False])
    def test_drops_attention_weights_that_eval_mode_does_not_drop(self, batch_first, need_weights):
        def forward(self, x):
            x = x if batch_first else x.transpose(0, 1)
            mixed, weights = self.attending(x, x, x, need_weights=need_weights)
            mixed = mixed if batch_first else mixed.transpose(0, 1)
            return (mixed, weights) if need_weights else mixed

        attending = nn.MultiheadAttention(8, 2, dropout=0.4, batch_first=batch_first)
        module = Custom(forward, attending=attending)
        network = find(module, torch.randn(2, 5, 8))
        (site,) = network.sites
        assert (site.name, site.kind, site.p, site.scope, site.shape) == (
            "attending",
            "attention",
            0.4,
            "row",
            (2, 5, 5),
        )
        x, (mask,) = torch.randn(3, 5, 8), drawn(network, 3)
        mixed = ran(network, x, masks=[mask])
        if need_weights:
            mixed, weights = mixed
            undropped = module.eval()(x)[1]
            assert weights.shape == undropped.shape
            assert not torch.allclose(weights, undropped)
        same(mixed, multi_head(attending, x, x, mask))

    def test_only_the_attention_itself_leaves_eval_mode(self):
        attending = nn.MultiheadAttention(8, 2, dropout=0.4, batch_first=True)
        module = Custom(lambda self, x: self.attending(x, x, x)[0], attending=attending)
        assert find(module, torch.randn(2, 5, 8)).awake == {"attending"}

    def test_of_other_keys_and_values_with_an_added_key(self):
        attending = nn.MultiheadAttention(
            8, 2, dropout=0.4, batch_first=True, add_bias_kv=True, add_zero_attn=True, kdim=6, vdim=7
        )
        module = Custom(lambda self, *x: self.attending(*x)[0], attending=attending)
        inputs = torch.randn(3, 5, 8), torch.randn(3, 4, 6), torch.randn(3, 4, 7)
        network = find(module, *inputs)
        assert [site.shape for site in network.sites] == [(2, 5, 6)]
        has_eval_mode_and_every_site_has_an_effect(module, network, *inputs)


def _causal_mask_with_an_empty_row():
    mask = torch.ones(4, 6, dtype=torch.bool).tril()
    mask[2] = False
    return mask


ATTENTION = [
    {},
    {"attn_mask": torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) > 0.4},
    {"attn_mask": torch.rand(3, 1, 4, 6, generator=torch.Generator().manual_seed(2)) > 0.2},
    {"attn_mask": torch.randn(4, 6, generator=torch.Generator().manual_seed(3))},
    {"attn_mask": torch.randn(3, 4, 4, 6, generator=torch.Generator().manual_seed(4))},
    {"attn_mask": _causal_mask_with_an_empty_row()},
    {"attn_mask": torch.zeros(4, 6).masked_fill(~_causal_mask_with_an_empty_row(), -torch.inf)},
    {"attn_mask": torch.zeros(4, 6).masked_fill(~_causal_mask_with_an_empty_row(), torch.finfo(torch.float32).min)},
    {"is_causal": True},
    {"scale": 0.2},
    {"enable_gqa": True},
    {"enable_gqa": True, "is_causal": True, "scale": 0.2},
]


class TestScaledDotProductAttention:
    """The weights that PyTorch computes are read off by letting each value be a unit vector of its own."""

    @staticmethod
    def tensors(options, keys=6):
        heads = 2 if options.get("enable_gqa") else 4
        return torch.randn(3, 4, 4, 8), torch.randn(3, heads, keys, 8), torch.randn(3, heads, keys, 5)

    @staticmethod
    def network(options):
        def forward(self, *inputs):  # a fourth is a mask
            return F.scaled_dot_product_attention(*inputs, dropout_p=self.p if self.training else 0.0, **options)

        return Custom(forward, p=0.4)

    @pytest.mark.parametrize("options", ATTENTION)
    def test_drops_weights_though_in_eval_mode_its_p_is_0_and_keeps_them_otherwise(self, options):
        query, key, value = self.tensors(options)
        inputs = query, key, value
        of_network = dict(options)
        if options.get("attn_mask", query[0]).dim() == 4:  # one for each row
            inputs = *inputs, of_network.pop("attn_mask")
        network = find(self.network(of_network), *inputs)
        assert [(site.kind, site.p, site.shape) for site in network.sites] == [("attention", 0.4, (4, 4, 6))]
        (mask,), (everything,) = drawn(network, 3), kept(network, 3)
        same(ran(network, *inputs, masks=[everything]), F.scaled_dot_product_attention(query, key, value, **options))
        weights = F.scaled_dot_product_attention(query, key, torch.eye(6).expand(*key.shape[:2], 6, 6), **options)
        repeated = value.repeat_interleave(4 // value.shape[1], 1)
        same(ran(network, *inputs, masks=[mask]), (weights * mask) @ repeated)

    @pytest.mark.parametrize("keys", [3, 4, 6])
    def test_lets_a_query_see_as_far_as_pytorch_does_where_keys_are_more_or_fewer(self, keys):
        query, key, value = self.tensors({}, keys)
        ones = torch.ones(3, 4, 4, keys)
        wanted = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        same(attention(ones, query, key, value, is_causal=True), wanted)

    def test_takes_groups_of_other_sizes_for_keys_and_values(self):
        query, key, value = torch.randn(2, 4, 3, 8), torch.randn(2, 2, 5, 8), torch.randn(2, 4, 5, 8)
        wanted = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        same(attention(torch.ones(2, 4, 3, 5), query, key, value, enable_gqa=True), wanted)

    def test_a_query_that_all_rows_share_has_weights_of_each_rows_own(self):
        def forward(self, x):
            heads = x.unflatten(-1, (2, 4)).transpose(1, 2)
            p = 0.5 if self.training else 0.0
            return F.scaled_dot_product_attention(self.queries, heads, heads, dropout_p=p)

        network = find(Custom(forward, queries=nn.Parameter(torch.randn(1, 2, 3, 4))), torch.randn(2, 5, 8))
        assert [(site.scope, site.shape) for site in network.sites] == [("row", (2, 3, 5))]


@pytest.mark.parametrize("kind", ["truth", "infinity", "broadcast"])
def test_a_query_that_may_look_at_no_key_gets_0_in_every_program(kind):
    def forward(self, x, mask):
        q, k, v = self.qkv(x)[:, None].chunk(3, -1)
        allowed = mask.bool()[:, None, None]
        if kind == "infinity":
            allowed = torch.zeros_like(mask)[:, None, None].masked_fill(~allowed, -torch.inf)
        elif kind == "truth":
            allowed = allowed.expand(-1, 1, x.shape[1], -1)
        hidden = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)[:, 0]
        return self.out(self.drop(hidden)).mean(1)

    torch.manual_seed(0)
    module = Custom(forward, qkv=nn.Linear(4, 12), drop=nn.Dropout(0.3), out=nn.Linear(4, 2)).eval()
    x, mask = torch.randn(4, 5, 4), torch.ones(4, 5)
    mask[1, 3:] = 0
    engine = Engine.from_module(module, (x, mask), "regression", runtime="onnx")
    none = torch.cat([torch.zeros(1, 5), mask[1:2]])
    with torch.no_grad():
        wanted = module(x[:2], none).numpy()
    np.testing.assert_allclose(engine.predict((x[:2], none), 0).mean, wanted, atol=1e-5)
