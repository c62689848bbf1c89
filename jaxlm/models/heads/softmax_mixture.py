"""The mixture of softmaxes: an output layer whose log-probabilities have a higher rank."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm.errors import check_at_least
from jaxlm.models.heads.base import Head
from jaxlm.models.layers import Affine, project, uniform
from jaxlm.ops.output_layer import output_cross_entropy
from jaxlm.ops.products import as_output_matrix


class SoftmaxMixture(Head):
    """A mixture of softmaxes, with weights that depend on the context (Yang et al. 2018).

        P(w) = Σ_k π_k softmax(b + U g_k)_w        g_k = tanh(a_k + A_k h)        π = softmax(V h)

    The logarithm of a mixture is not a linear function of h. So the matrix of log-probabilities
    over all contexts can have a higher rank than D (the softmax bottleneck).

    Parameters: latent/kernel [F, K · D] and latent/bias (all A_k, and all a_k, concatenated), prior
    (the matrix V, [F, K]), kernel U [D, vocab_size] unless `tied`, and bias b [vocab_size].

    Source: Yang, Dai, Salakhutdinov & Cohen, "Breaking the softmax bottleneck: a high-rank RNN
    language model", 2018, section 2.3.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> settings = {"embedding_size": 4, "dtype": jnp.float32, "init_scale": None}
      >>> head = SoftmaxMixture(10, tied=False, softmaxes=3, **settings)
      >>> hidden_BTF, embedding_VD = jnp.ones((1, 2, 8)), jnp.ones((10, 4))
      >>> log_probs_BTV, _ = head.init_with_output(jax.random.key(0), hidden_BTF, embedding_VD)
      >>> log_probs_BTV.shape, bool(jnp.allclose(jnp.exp(log_probs_BTV).sum(-1), 1))
      ((1, 2, 10), True)
    """

    softmaxes: int
    """Number of softmaxes K."""

    @nn.nowrap
    def check(self) -> None:
        check_at_least("softmaxes", self.softmaxes, 1)

    @nn.compact
    def operands(
        self, hidden_BTF: jax.Array, embedding_VD: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Return g [N, K, D], log π [N, K] float32, U [D, V] and b [V], with N = B · T.

        In the names of arrays, K is the number of softmaxes, and M = N · K.
        """
        features, size, count = hidden_BTF.shape[-1], self.embedding_size, self.softmaxes
        latent = Affine(count * size, features, self.dtype, self.init_scale, name="latent")
        latent_NKD = jnp.tanh(latent(hidden_BTF)).reshape(-1, count, size)
        init = uniform(self.init_scale or features**-0.5)
        prior_FK = self.param("prior", init, (features, count))
        prior_BTK = project(hidden_BTF, prior_FK, self.dtype)
        log_prior_NK = jax.nn.log_softmax(prior_BTK).reshape(-1, count)
        bias_V = self.param("bias", uniform(self.init_scale or 0.0), (self.vocab_size,))
        if self.tied:
            kernel_DV = as_output_matrix(embedding_VD, self.dtype)
            return latent_NKD, log_prior_NK, kernel_DV, bias_V
        init = uniform(self.init_scale or size**-0.5)
        kernel_DV = self.param("kernel", init, (size, self.vocab_size))
        return latent_NKD, log_prior_NK, kernel_DV, bias_V

    def __call__(self, hidden_BTF: jax.Array, embedding_VD: jax.Array) -> jax.Array:
        """Return log-probabilities, [B, T, V] float32. They serve as logits."""
        latent_NKD, log_prior_NK, kernel_DV, bias_V = self.operands(hidden_BTF, embedding_VD)

        Component = tuple[jax.Array, jax.Array]

        def add(total_NV: jax.Array, component: Component) -> tuple[jax.Array, None]:
            latent_ND, log_prior_N = component
            logits_1NV = project(latent_ND[None], kernel_DV, self.dtype) + bias_V
            log_probs_NV = jax.nn.log_softmax(logits_1NV[0])
            return jnp.logaddexp(total_NV, log_probs_NV + log_prior_N[:, None]), None

        # The softmaxes are added in a loop. All at once would need K times as many logits.
        empty_NV = jnp.full((latent_NKD.shape[0], self.vocab_size), -jnp.inf)
        components = latent_NKD.swapaxes(0, 1), log_prior_NK.T
        mixed_NV, _ = jax.lax.scan(add, empty_NV, components)
        return mixed_NV.reshape(*hidden_BTF.shape[:2], self.vocab_size)

    def loss(
        self,
        hidden_BTF: jax.Array,
        embedding_VD: jax.Array,
        targets_BT: jax.Array,
        weights_BT: jax.Array,
        deterministic: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """Return Σ weight · nll and the nll of each target, without storing all logits.

            nll = -log Σ_k π_k p_k          ∇nll = Σ_k r_k (∇(-log p_k) - ∇ log π_k)
            r_k = π_k p_k / Σ_j π_j p_j

        So the gradient is the gradient of a weighted loss over K · N tokens with weights r_k, which
        `output_cross_entropy` computes. It runs twice, the first time for the r_k.

        Args:
          hidden_BTF: features, in the compute dtype.
          embedding_VD: word features, float32. Only a tied output layer uses them.
          targets_BT: ids of the words to predict, integers.
          weights_BT: weight of each target in the sum, float32.
          deterministic: False in training; True in evaluation.
        Returns:
          The weighted sum, a float32 scalar, and the nll of each target, float32 [B, T].
        """
        latent_NKD, log_prior_NK, kernel_DV, bias_V = self.operands(hidden_BTF, embedding_VD)
        count, size = latent_NKD.shape[1:]
        latent_MD = latent_NKD.reshape(-1, size)
        targets_M = jnp.repeat(targets_BT.reshape(-1), count)
        weights_N = weights_BT.reshape(-1)

        def cross_entropy(weights_M: jax.Array) -> tuple[jax.Array, jax.Array]:
            layer = latent_MD, kernel_DV, bias_V
            return output_cross_entropy(*layer, targets_M, weights_M, self.dtype)

        ones_M = jnp.ones(targets_M.shape, jnp.float32)
        _, component_nll_M = jax.lax.stop_gradient(cross_entropy(ones_M))
        log_joint_NK = jax.lax.stop_gradient(log_prior_NK) - component_nll_M.reshape(-1, count)
        nll_N = -jax.nn.logsumexp(log_joint_NK, axis=-1)
        # weight · r_k
        weights_NK = jnp.exp(log_joint_NK + nll_N[:, None]) * weights_N[:, None]
        # `surrogate` has the gradient of the loss, but not its value.
        surrogate, _ = cross_entropy(weights_NK.reshape(-1))
        surrogate = surrogate - jnp.sum(weights_NK * log_prior_NK)
        total = jnp.sum(nll_N * weights_N)
        # The value is the loss, and the gradient is the gradient of `surrogate`.
        total = total + (surrogate - jax.lax.stop_gradient(surrogate))
        return total, nll_N.reshape(targets_BT.shape)

    @nn.nowrap
    def describe(self, features: int) -> dict[str, str]:
        count, size = self.softmaxes, self.embedding_size
        descriptions = {
            "/latent": f"A, a: {features} -> {count} x {size}, tanh",
            "/prior": f"V: {features} -> {count}, softmax",
        }
        words = f"{size} -> {self.vocab_size}, {count} softmaxes"
        return descriptions | {"": f"b: {words} (U is C)" if self.tied else f"U, b: {words}"}
