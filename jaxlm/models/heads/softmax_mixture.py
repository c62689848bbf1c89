"""The mixture of softmaxes: an output layer of higher rank."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.models.layers import Affine, affine, uniform
from jaxlm.ops.output_layer import output_cross_entropy


class SoftmaxMixture(nn.Module):
    """Several softmaxes over the same words, mixed as the context says (Yang et al. 2018).

        P(w) = Σ_k π_k softmax(b + U g_k)_w        g_k = tanh(a_k + A_k h)        π = softmax(V h)

    The logarithm of such a mixture is no linear function of h, so that its matrix over all contexts
    may have a higher rank than D (the softmax bottleneck).

    Parameters: latent/kernel [F, K · D] and bias (A and a, side by side), prior [F, K], kernel U
    [D, V] unless `tied`, and bias b [V].

    Source: Yang, Dai, Salakhutdinov & Cohen, "Breaking the softmax bottleneck: a high-rank RNN
    language model", 2018, section 2.3.
    """

    vocab_size: int
    tied: bool
    embedding_size: int
    dtype: Any
    init_scale: float | None
    softmaxes: int

    spreads = True

    @nn.compact
    def operands(
        self, hidden_BTF: jax.Array, embedding_VD: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """g [N, K, D], log π [N, K] float32, U [D, V] and b [V], with N = B · T."""
        features, size, count = hidden_BTF.shape[-1], self.embedding_size, self.softmaxes
        latent = Affine(count * size, features, self.dtype, self.init_scale, name="latent")
        latent_NKD = jnp.tanh(latent(hidden_BTF)).reshape(-1, count, size)
        init = uniform(self.init_scale or features**-0.5)
        prior_FK = self.param("prior", init, (features, count))
        none_K = jnp.zeros((count,), jnp.float32)
        prior_BTK = affine(hidden_BTF, prior_FK, none_K, self.dtype).astype(jnp.float32)
        log_prior_NK = jax.nn.log_softmax(prior_BTK).reshape(-1, count)
        bias_V = self.param("bias", uniform(self.init_scale or 0.0), (self.vocab_size,))
        if self.tied:
            return latent_NKD, log_prior_NK, embedding_VD.T, bias_V
        init = uniform(self.init_scale or size**-0.5)
        kernel_DV = self.param("kernel", init, (size, self.vocab_size))
        return latent_NKD, log_prior_NK, kernel_DV, bias_V

    def __call__(self, hidden_BTF: jax.Array, embedding_VD: jax.Array) -> jax.Array:
        """Log-probabilities [B, T, V], float32: logits whose softmax is themselves."""
        latent_NKD, log_prior_NK, kernel_DV, bias_V = self.operands(hidden_BTF, embedding_VD)

        def add(total_NV: jax.Array, one: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            latent_ND, log_prior_N = one
            logits_1NV = affine(latent_ND[None], kernel_DV, bias_V, self.dtype)
            part_NV = jax.nn.log_softmax(logits_1NV[0].astype(jnp.float32))
            return jnp.logaddexp(total_NV, part_NV + log_prior_N[:, None]), None

        # One softmax after another: together they would be K times as many logits.
        nothing_NV = jnp.full((latent_NKD.shape[0], self.vocab_size), -jnp.inf)
        experts = latent_NKD.swapaxes(0, 1), log_prior_NK.T
        mixed_NV, _ = jax.lax.scan(add, nothing_NV, experts)
        return mixed_NV.reshape(*hidden_BTF.shape[:2], self.vocab_size)

    def loss(
        self,
        hidden_BTF: jax.Array,
        embedding_VD: jax.Array,
        targets_BT: jax.Array,
        weights_BT: jax.Array,
        deterministic: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """As OutputLayer's.

            nll = -log Σ_k π_k p_k          ∇nll = Σ_k r_k (∇(-log p_k) - ∇ log π_k)
            r_k = π_k p_k / Σ_j π_j p_j

        So the loss is that of K · N tokens, each weighing r_k: the fused output layer serves, and
        no logits are kept. It is gone through twice, first for the r_k.
        """
        latent_NKD, log_prior_NK, kernel_DV, bias_V = self.operands(hidden_BTF, embedding_VD)
        count, size = latent_NKD.shape[1:]
        latent_MD = latent_NKD.reshape(-1, size)
        targets_M = jnp.repeat(targets_BT.reshape(-1), count)
        weights_N = weights_BT.reshape(-1)

        def nll_of(weights_M: jax.Array) -> tuple[jax.Array, jax.Array]:
            layer = latent_MD, kernel_DV, bias_V
            return output_cross_entropy(*layer, targets_M, weights_M, self.dtype)

        _, each_M = jax.lax.stop_gradient(nll_of(jnp.ones(targets_M.shape, jnp.float32)))
        joint_NK = jax.lax.stop_gradient(log_prior_NK) - each_M.reshape(-1, count)
        nll_N = -jax.nn.logsumexp(joint_NK, axis=-1)
        shares_NK = jnp.exp(joint_NK + nll_N[:, None]) * weights_N[:, None]
        moved, _ = nll_of(shares_NK.reshape(-1))
        moved = moved - jnp.sum(shares_NK * log_prior_NK)
        total = jnp.sum(nll_N * weights_N)
        # The value is the loss, the gradient that of `moved`.
        total = total + (moved - jax.lax.stop_gradient(moved))
        return total, nll_N.reshape(targets_BT.shape)

    @nn.nowrap
    def note(self) -> str:
        """Nothing: the loss is exact."""
        return ""

    @nn.nowrap
    def described(self, features: int) -> dict[str, str]:
        """Each parameter group in words."""
        count, size = self.softmaxes, self.embedding_size
        found = {
            "/latent": f"A, a: {features} -> {count} x {size}, tanh",
            "/prior": f"V: {features} -> {count}, softmax",
        }
        words = f"{size} -> {self.vocab_size}, {count} softmaxes"
        return found | {"": f"b: {words} (U is C)" if self.tied else f"U, b: {words}"}
