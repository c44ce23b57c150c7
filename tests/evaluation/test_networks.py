from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from evaluation_toys import pictures
from safetensors.torch import load_file, save_file

from suffuse.core.errors import BadInput, Damaged, Refused
from suffuse.evaluation import LPIPS, CLIPScore, DirectionalCLIP, InceptionFeatures, Pictures
from suffuse.evaluation.inception import Inception, Mixed
from suffuse.evaluation.lpips import Perceptual
from suffuse.guidance import RewardSelect


def test_inception_has_the_published_number_of_parameters_and_the_published_widths():
    with torch.device("meta"):
        net = Inception()
        x = net.Conv2d_1a_3x3(torch.empty(1, 3, 299, 299))
        assert x.shape[1:] == (32, 149, 149)
        assert net(torch.empty(2, 3, 299, 299)).shape == (2, 2048)
    # torchvision's inception_v3 without auxiliary head has 23,834,568, of which 2,049,000 are the classifier's
    assert sum(p.numel() for p in net.parameters()) == 23_834_568 - 2_049_000
    names = set(net.state_dict())
    assert names > {
        "Mixed_5b.branch_pool.conv.weight",
        "Mixed_6a.branch3x3dbl_3.bn.running_var",
        "Mixed_6e.branch7x7dbl_5.conv.weight",
        "Mixed_7a.branch7x7x3_4.bn.bias",
        "Mixed_7c.branch3x3dbl_3b.bn.weight",
    }


def test_a_mixed_block_is_its_branches_side_by_side():
    torch.manual_seed(0)
    block = Inception().Mixed_7c.eval()
    x = torch.randn(1, 2048, 3, 3)
    assert isinstance(block, Mixed) and block(x).shape == (1, 2048, 3, 3)
    assert torch.equal(block(x)[:, :320], block.branch1x1(x))
    h = block.branch3x3_1(x)
    assert torch.equal(block(x)[:, 704:1088], block.branch3x3_2b(h))
    assert torch.equal(block(x)[:, 1856:], block.branch_pool(F.max_pool2d(x, 3, 1, 1)))


def test_inception_features_load_by_name_and_refuse_other_files(tmp_path):
    with pytest.raises(Refused, match="6726825d"):
        InceptionFeatures(str(tmp_path / "none.safetensors")).name  # noqa: B018 - reading the name loads the file
    save_file({"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "few.safetensors")
    with pytest.raises(Damaged, match="lacks tensor"):
        InceptionFeatures(str(tmp_path / "few.safetensors")).name  # noqa: B018
    torch.manual_seed(0)
    net = Inception()
    classifier = {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    save_file({**net.state_dict(), **classifier}, tmp_path / "inception.safetensors")
    features = InceptionFeatures(str(tmp_path / "inception.safetensors"))
    images = pictures(1, 32).images
    expected = net.eval()(F.interpolate(images, (299, 299), mode="bilinear", align_corners=False))
    torch.testing.assert_close(features(images), expected.detach())
    assert "299x299" in features.name


def classifier_files(folder, vgg):
    torch.manual_seed(1)
    net = Perceptual(vgg)
    names = {f"features.{k}": v for k, v in net.features.state_dict().items()}
    heads = {f"lin{i}.model.1.weight": torch.rand(1, w.shape[1], 1, 1) for i, w in enumerate(net.weights)}
    save_file({**names, "classifier.6.bias": torch.zeros(1000)}, folder / "backbone.safetensors")
    save_file(heads, folder / "linear.safetensors")
    return str(folder / "backbone.safetensors"), str(folder / "linear.safetensors")


def by_hand(images, w):
    """AlexNet's five activations, normalised over channels, written out."""
    x = (images - torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)) / torch.tensor([0.458, 0.448, 0.450]).view(
        3, 1, 1
    )
    outs = []
    for index, stride, padding, pool in (
        (0, 4, 2, False),
        (3, 1, 2, True),
        (6, 1, 1, True),
        (8, 1, 1, False),
        (10, 1, 1, False),
    ):
        x = F.max_pool2d(x, 3, 2) if pool else x
        x = F.conv2d(x, w[f"features.{index}.weight"], w[f"features.{index}.bias"], stride, padding).relu()
        outs.append(x / (x.norm(dim=1, keepdim=True) + 1e-10))
    return outs


def test_lpips_is_the_weighted_distance_of_normalised_activations(tmp_path):
    backbone, linear = classifier_files(tmp_path, vgg=False)
    p = pictures(2, 64)
    w, heads = load_file(backbone), load_file(linear)
    pairs = zip(by_hand(p.images, w), by_hand(p.references, w), strict=True)
    expected = sum(
        (heads[f"lin{i}.model.1.weight"] * (a - b) ** 2).sum(1).mean((1, 2)) for i, (a, b) in enumerate(pairs)
    )
    metric = LPIPS(backbone, linear)
    torch.testing.assert_close(metric.score(p).float(), expected, rtol=1e-4, atol=1e-6)
    assert metric.score(Pictures(p.images, references=p.images)).tolist() == [0.0, 0.0]
    assert "AlexNet" in metric.protocol


def test_vgg_is_told_from_alexnet_by_content_and_has_its_published_size(tmp_path):
    with torch.device("meta"):
        net = Perceptual(vgg=True)
    assert sum(p.numel() for p in net.features.parameters()) == 14_714_688
    assert [type(net.features[i]).__name__ for i in net.taps] == ["ReLU"] * 5
    backbone, _ = classifier_files(tmp_path, vgg=False)
    save_file({f"lin{i}.model.1.weight": torch.rand(1, 64, 1, 1) for i in range(5)}, tmp_path / "other.safetensors")
    with pytest.raises(Damaged, match="1 in .*other.safetensors is"):
        LPIPS(backbone, str(tmp_path / "other.safetensors")).score(pictures(1, 64))
    with pytest.raises(Refused, match="vgg16-397923af"):
        LPIPS("nowhere", "nowhere").score(pictures(1, 64))


@pytest.fixture
def clip(tmp_path):
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    words = ["<|startoftext|>", "<|endoftext|>", "a</w>", "red</w>", "a", "r", "e", "d", "re", "d</w>"]
    text = {**tower, "vocab_size": len(words), "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config={**tower, "image_size": 16, "patch_size": 8}, projection_dim=8)
    CLIPModel(config).save_pretrained(tmp_path)
    vocabulary, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    vocabulary.write_text(json.dumps({word: i for i, word in enumerate(words)}))
    merges.write_text("#version: 0.2\nr e\nre d</w>\n")
    CLIPTokenizer(vocab=str(vocabulary), merges=str(merges)).save_pretrained(tmp_path)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    return tmp_path


def test_the_clip_score_is_the_cosine_of_the_models_own_embeddings(clip):
    from PIL import Image
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    p = Pictures(pictures(3, 20).images, ["a red", "red a a", "a " * 30])
    metric = CLIPScore(str(clip))
    found = metric.score(p)
    model, tokenizer, processor = (c.from_pretrained(clip) for c in (CLIPModel, CLIPTokenizer, CLIPImageProcessorPil))
    for i, text in enumerate(["a red", "red a a", "a " * 6]):
        image = ((p.images[i] / 2 + 0.5) * 255).round().byte().permute(1, 2, 0).numpy()
        pixels = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"]
        out = model(**tokenizer(text, return_tensors="pt"), pixel_values=pixels)
        cosine = F.cosine_similarity(out.image_embeds, out.text_embeds).item()
        assert found[i].item() == pytest.approx(100 * max(cosine, 0), abs=1e-3)
    assert found.max() > 0
    assert str(clip) not in metric.protocol
    assert torch.equal(RewardSelect(metric)(p.images, "a red").values[0], found[0])


def test_directional_clip_compares_changes(clip):
    """By the model's own embeddings; where nothing changes it is 0."""
    from PIL import Image
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    after, before = (pictures(3, 24, seed).images for seed in (1, 2))
    metric, said = DirectionalCLIP(str(clip)), (["b a", "a", "ab"], ["a", "b", "b b"])
    found = metric.score(Pictures(after, said[0], before, sources=said[1]))
    model, tokenizer, processor = (c.from_pretrained(clip) for c in (CLIPModel, CLIPTokenizer, CLIPImageProcessorPil))
    seen, told = [], []
    for images, texts in zip((after, before), said, strict=True):
        bytes_ = ((images / 2 + 0.5) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        pixels = processor([Image.fromarray(v) for v in bytes_], return_tensors="pt")["pixel_values"]
        out = model(**tokenizer(texts, padding=True, return_tensors="pt"), pixel_values=pixels)
        seen.append(out.image_embeds)
        told.append(out.text_embeds)
    expected = torch.cosine_similarity(seen[0] - seen[1], told[0] - told[1])
    torch.testing.assert_close(found, expected.double(), atol=1e-5, rtol=1e-4)
    assert torch.allclose(metric.rank(after, before, *said), found)  # both directions turn round
    assert metric.rank(after, after, *said).abs().max() < 1e-9
    with pytest.raises(BadInput, match="sources: none"):
        metric.score(Pictures(after, said[0], before))


def test_a_clip_folder_that_is_absent_or_not_whole_is_named(clip, tmp_path):
    p = Pictures(pictures(1).images, ["a red"])
    with pytest.raises(Refused, match="no folder nowhere"):
        CLIPScore("nowhere").score(p)
    (clip / "model.safetensors").unlink()
    with pytest.raises(Damaged, match="model.safetensors"):
        CLIPScore(f"{clip}/.").score(p)
