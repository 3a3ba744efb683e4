"""The layers that train faster do the same: compared with PyTorch's own, forward and backward."""
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mnist_nb.data import load_sample, normalize
from mnist_nb.layers import keep_mask, relu_dropout, train_forward
from mnist_nb.model import MNISTNet

SAMPLE = load_sample('train')[:64]
IMAGES, LABELS = normalize(SAMPLE.images), torch.from_numpy(SAMPLE.labels)


def seeded(function, *args):
    torch.manual_seed(1)
    return function(*args)


@pytest.mark.parametrize('p', [0.0, 0.25, 0.5])
@pytest.mark.parametrize('channels_last', [False, True])
def test_relu_dropout_is_relu_times_a_mask_forward_and_backward(p, channels_last):
    values = torch.randn(8, 16, 12, 12)
    if channels_last: values = values.contiguous(memory_format=torch.channels_last)
    ours, theirs, slopes = values.clone().requires_grad_(), values.clone().requires_grad_(), torch.randn(values.shape)
    mask = seeded(keep_mask, values, p)
    expected = F.relu(theirs) * mask / (1 - p)
    output = seeded(relu_dropout, ours, p)
    torch.testing.assert_close(output, expected)
    output.backward(slopes), expected.backward(slopes)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_mask_keeps_as_many_as_asked():
    for p in 0.25, 0.5, 3 / 256:
        kept = seeded(keep_mask, torch.empty(2_000_003), p)
        assert set(kept.unique().tolist()) <= {0.0, 1.0}
        assert abs(kept.mean().item() - (1 - p)) < 5 * (p * (1 - p) / len(kept)) ** 0.5
        assert abs(np.corrcoef(kept[:-1], kept[1:])[0, 1]) < 5 / len(kept) ** 0.5  # neighbors are independent


def test_masks_of_any_form_and_number_format_follow_the_random_state():
    values = torch.randn(5, 3, 2)
    assert keep_mask(values.transpose(0, 2), 0.5).shape == (2, 3, 5) and keep_mask(values.bfloat16(), 0.5).dtype == torch.bfloat16
    assert relu_dropout(values[:0], 0.5).shape == (0, 3, 2)
    state = torch.get_rng_state()
    first = keep_mask(values, 0.5)
    torch.set_rng_state(state)
    assert torch.equal(keep_mask(values, 0.5), first)


def test_a_probability_that_bytes_cannot_express_is_left_to_pytorch():
    values = torch.randn(1000)
    assert torch.equal(seeded(relu_dropout, values, 0.3), seeded(F.dropout, F.relu(values), 0.3))


def outputs_and_gradients(net, forward, dtype=torch.float32):
    net.zero_grad()
    with torch.autocast('cpu', dtype, enabled=dtype != torch.float32): log_probs = forward(IMAGES)
    F.nll_loss(log_probs.float(), LABELS).backward()
    return [log_probs.detach().float(), *(weight.grad.clone() for weight in net.parameters())]


def relative(ours, theirs): return max(((a - b).norm() / b.norm()).item() for a, b in zip(ours, theirs, strict=True))


def test_the_net_in_training_computes_what_it_computes_in_prediction():
    torch.manual_seed(0)
    net = MNISTNet(dropout1=0, dropout2=0)
    plain = outputs_and_gradients(net, net.eval())
    assert relative(outputs_and_gradients(net, net.train()), plain) < 1e-5
    assert relative(outputs_and_gradients(net, lambda images: train_forward(net, images)), plain) < 1e-5


def test_bfloat16_is_near_float32_in_outputs_and_gradients():
    torch.manual_seed(0)
    net = MNISTNet(dropout1=0, dropout2=0).train()
    exact, rounded = outputs_and_gradients(net, net), outputs_and_gradients(net, net, torch.bfloat16)
    assert 0 < relative(rounded[:1], exact[:1]) < 0.02
    assert relative(rounded[1:], exact[1:]) < 0.15


def test_a_dropout_layer_that_is_switched_off_stays_off():
    net = MNISTNet(num_filters=2, hidden_size=4).train()
    net.dropout1.eval(), net.dropout2.eval()
    torch.testing.assert_close(net(IMAGES), net.eval()(IMAGES))


def test_channels_lie_last_in_memory_while_the_net_trains():
    net, stored = MNISTNet(num_filters=2, hidden_size=4).train(), {}
    for name in 'conv1', 'conv2', 'pool':
        def keep(module, inputs, output, name=name): stored[name] = output.is_contiguous(memory_format=torch.channels_last)
        getattr(net, name).register_forward_hook(keep)
    net(IMAGES)
    assert stored == {'conv1': True, 'conv2': True, 'pool': True}
