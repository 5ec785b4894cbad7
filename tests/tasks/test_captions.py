"""Captioning: the drawings, the captions that they determine, the splits, the metrics, and files of pictures."""

import gzip
import io
import itertools
import json
import shutil
import tarfile
from collections import Counter, defaultdict
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rnnlab.cells import find
from rnnlab.contracts import check_task
from rnnlab.heads import IGNORE
from rnnlab.interface import InputError
from rnnlab.models.encoder_decoder import EncoderDecoder
from rnnlab.report.pictures import filmstrip, overlays
from rnnlab.tasks.captions import _moving, _shapes, _show
from rnnlab.tasks.captions._drawing import KINDS, Dice, coverage
from rnnlab.tasks.captions.base import scores, shuffled
from rnnlab.tasks.captions.image_caption import ImageCaption
from rnnlab.tasks.captions.video_caption import VideoCaption
from rnnlab.vocabulary import END, START

SMALL = {"eval_size": 12, "pool": 60, "batch_size": 6}
REFERENCE = {  # brightest and darkest channels of each colour
    "red": "r>gb",
    "green": "g>rb",
    "blue": "b>rg",
    "yellow": "rg>b",
    "purple": "rb>g",
    "white": "rgb>",
}


def inside(kind, x, y, r):
    """Whether a point is in a shape of radius r: the definitions in words, point by point."""
    if kind == "circle":
        return x * x + y * y <= r * r
    if kind == "square":
        return abs(x) <= 0.85 * r and abs(y) <= 0.85 * r
    if kind == "triangle":  # between the base and the two lines from the top corner to the corners of the base
        return y <= 0.7 * r and abs(x) <= 0.95 * r * (y + r) / (1.7 * r)
    return (abs(x) <= r and abs(y) <= 0.33 * r) or (abs(y) <= r and abs(x) <= 0.33 * r)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("radius", [2.8, 4.4])
def test_the_area_of_a_drawing_is_that_of_the_shape(kind, radius):
    """Counted on a grid of 20 x 20 points a pixel."""
    fine = (np.arange(16 * 20) + 0.5) / 20 - 8
    area = sum(inside(kind, x, y, radius) for x in fine for y in fine) / 400
    pixels = np.arange(16) + 0.5 - 8
    drawn = coverage(kind, pixels[None, :] - 0.0, pixels[:, None] - 0.0, radius)
    assert drawn.sum() == pytest.approx(area, rel=0.08)
    assert drawn.min() == 0
    assert 0.9 < drawn.max() <= 1


def blobs(frame):
    """The connected coloured regions of a picture [3, H, W]: pixels (y, x) that differ from the corner's colour."""
    colours = frame.permute(1, 2, 0).int()
    left = {tuple(at) for at in (colours - colours[0, 0]).abs().amax(-1).gt(50).nonzero().tolist()}
    found = []
    while left:
        region, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            region.add((y, x))
            near = {(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)} & left
            left -= near
            edge += near
        found.append(sorted(region))
    return found


def named_colour(frame, region):
    """The name of the colour in the middle of a region."""
    y, x = (round(sum(parts) / len(parts)) for parts in zip(*region, strict=True))
    values = dict(zip("rgb", frame[:, y, x].tolist(), strict=True))
    bright = [name for name in "rgb" if values[name] > 0.62 * max(values.values())]
    dark = [name for name in "rgb" if name not in bright]
    return {rule: name for name, rule in REFERENCE.items()}["".join(bright) + ">" + "".join(dark)]


def test_a_caption_is_read_off_its_picture():
    """The number, the order, the axis, the sizes and the colours, measured in the pixels."""
    for one in itertools.islice(_shapes.examples("train", "captions", torch.Generator().manual_seed(3)), 150):
        regions = blobs(one.frames[0])
        centres = [[sum(parts) / len(parts) for parts in zip(*region, strict=True)] for region in regions]
        spread = [max(axis) - min(axis) for axis in zip(*centres, strict=True)]
        upright = spread[0] > spread[1]
        order = sorted(range(len(regions)), key=lambda n: centres[n][0 if upright else 1])
        described = []
        for n in order:
            shades = [
                float((one.frames[0, :, y, x].int() - one.frames[0, :, 0, 0].int()).abs().sum()) for y, x in regions[n]
            ]
            size = "large" if sum(shades) / max(shades) > 26.5 else "small"  # areas: 13 to 25, and 31 to 61
            described.append(f"a {size} {named_colour(one.frames[0], regions[n])}")
        words = one.caption.replace(",", "").split()
        said = [" ".join(words[n : n + 3]) for n, word in enumerate(words) if word == "a"]
        assert said == described
        assert (" above " in one.caption or one.caption.endswith("from top to bottom")) == upright
        assert (" and " in one.caption) == (len(regions) == 3)


def test_the_caption_of_a_scene_by_hand():
    red, blue = _shapes.Shape("small", "red", "circle", 8, 16), _shapes.Shape("large", "blue", "square", 22, 17)
    green = _shapes.Shape("small", "green", "cross", 27, 16)
    assert _shapes.Scene(True, (red, blue)).caption == "a small red circle above a large blue square"
    assert _shapes.Scene(False, (red, blue)).caption == "a small red circle left of a large blue square"
    assert (
        _shapes.Scene(False, (red, blue, green)).caption
        == "a small red circle, a large blue square and a small green cross from left to right"
    )
    picture = _shapes.draw(_shapes.Scene(True, (red, blue)), Dice([0] * 20))[0]
    assert named_colour(picture, [(8, 16)]) == "red"
    assert named_colour(picture, [(22, 17)]) == "blue"


def actions_of(frames):
    """What a shape does, from the differences of its centre and of its area between frames."""
    sizes, centres = [], []
    for frame in frames.float():
        weight = (frame - frame[:, :1, :1]).abs().sum(0)
        weight = weight / weight.max()
        rows, columns = torch.meshgrid(*(torch.arange(float(n)) for n in weight.shape), indexing="ij")
        sizes.append(float(weight.sum()))
        centres.append((float((weight * columns).sum() / weight.sum()), float((weight * rows).sum() / weight.sum())))
    said = []
    for t in range(1, len(sizes)):
        x, y = (centres[t][axis] - centres[t - 1][axis] for axis in (0, 1))
        if max(abs(x), abs(y)) > 0.6:
            now = ("left" if x < 0 else "right") if abs(x) > abs(y) else ("up" if y < 0 else "down")
        else:
            now = "grows" if sizes[t] > sizes[t - 1] else "shrinks"
        said.append(now)
    return said


def test_a_caption_is_read_off_its_video():
    for one in itertools.islice(_moving.examples("train", "captions", torch.Generator().manual_seed(4)), 60):
        assert 8 <= len(one.frames) <= 16
        assert torch.equal(one.frames[:, :, 0, 0], one.frames[:1, :, 0, 0].expand(len(one.frames), 3))
        runs = [(name, len(list(group))) for name, group in itertools.groupby(actions_of(one.frames))]
        assert [name for name, _ in runs] == [w for w in one.caption.split()[3:] if w not in ("moves", "then")]
        assert min(count for _, count in runs) >= 3


def test_the_caption_of_a_video_by_hand():
    one = _moving.Video("red", "circle", ("left", "up", "grows", "down"), (3, 3, 3, 3), (15.0, 15.0, 3.0))
    assert one.caption == "a red circle moves left then up then grows then moves down"
    assert one.path[[0, 3, 6, 9, 12]].tolist() == pytest.approx(
        np.array([[15, 15, 3], [12, 15, 3], [12, 12, 3], [12, 12, 4.2], [12, 15, 4.2]])
    )


@pytest.mark.parametrize("module", [_shapes, _moving])
def test_no_caption_or_no_scene_is_in_two_splits(module):
    for held_out in ("captions", "scenes"):
        seen = defaultdict(set)
        for split in ("train", "valid", "test"):
            drawn = module.examples(split, held_out, torch.Generator().manual_seed(5))
            for one in itertools.islice(drawn, 100):
                # shapes that touch the background only by their tint are the same scene
                seen[split].add(one.caption if held_out == "captions" else mask(one.frames))
        pairs = itertools.combinations(seen.values(), 2)
        assert not any(a & b for a, b in pairs)
        assert all(len(found) > 50 for found in seen.values())


def mask(frames):
    frames = frames.int()
    return (frames - frames[:1, :, :1, :1]).abs().amax(1).gt(20).numpy().tobytes() + bytes(len(frames))


@pytest.mark.parametrize("make", [ImageCaption, VideoCaption])
def test_a_batch_is_the_captions_and_pixels_of_its_examples(make):
    task = make(**SMALL)
    batch = task.batch("valid", 1)
    examples = task.examples["valid"][6:12]
    for n, one in enumerate(examples):
        length = int(batch.lengths[n])
        assert task.words.decode(batch.targets[:length, n].tolist()) == one.caption
        assert batch.targets[length - 1, n] == END
        assert (batch.targets[length:, n] == IGNORE).all()
        assert batch.inputs[:length, n].tolist() == [START, *batch.targets[: length - 1, n].tolist()]
        torch.testing.assert_close(batch.source[: len(one.frames), n], one.frames / 255)
        if make is VideoCaption:
            assert batch.source_lengths[n] == len(one.frames)
    assert (batch.source_lengths is None) == (make is ImageCaption)
    assert not torch.equal(task.batch("train", 0).source, make(seed=1, **SMALL).batch("train", 0).source)


@pytest.mark.slow
@pytest.mark.parametrize("make", [ImageCaption, VideoCaption])
def test_the_contract_holds(make):
    check_task(make, model=EncoderDecoder, **SMALL, longest_output=8)


def plain_bleu(texts, references):
    """BLEU by its definition (Papineni et al., 2002), for texts that have all n-grams, split at spaces."""
    total, lengths = 0.0, (sum(len(t.split()) for t in texts), sum(len(r.split()) for r in references))
    for n in range(1, 5):
        hits = count = 0
        for text, reference in zip(texts, references, strict=True):
            a, b = (Counter(zip(*(s.split()[i:] for i in range(n)), strict=False)) for s in (text, reference))
            hits += sum((a & b).values())
            count += sum(a.values())
        total += log(hits / count) / 4
    return 100 * exp(total + min(0, 1 - lengths[1] / lengths[0]))


def test_scores_are_those_of_the_definitions():
    references = ["a small red circle above a large blue square", "a large blue cross left of a small white circle"]
    texts = [references[0], "a large blue cross left of a small red circle"]
    found = scores(texts, references)
    assert found["exact"] == 0.5
    assert found["bleu"] == pytest.approx(plain_bleu(texts, references), abs=1e-6)


@pytest.mark.parametrize("count", [2, 3, 17, 500])
def test_shuffling_gives_every_picture_to_another(count):
    others = shuffled(count)
    assert sorted(others) == list(range(count))
    assert all(other != place for place, other in enumerate(others))


def test_scores_of_shuffled_pictures_are_those_of_generating_with_other_pictures():
    """The model writes again, with the pictures in another order."""
    task = VideoCaption(**SMALL, longest_output=6)
    torch.manual_seed(0)
    model = EncoderDecoder(task.input, task.output_size, find("gru"), source=task.source, hidden_size=8).eval()
    examples = task.examples["valid"]
    written = [task.captions(model, [one.frames])[0] for one in examples]
    found = task.judge("valid", written)
    others = shuffled(len(examples))
    again: list = [None] * len(examples)
    for place, other in enumerate(others):  # the caption of picture `other` is compared with picture `place`
        again[other] = task.captions(model, [examples[place].frames])[0]
    direct = task.judge("valid", again)
    assert len({tuple(one.tolist()) for one in written}) > 1, "the model must not ignore its pictures"
    assert {name: found[f"{name}_shuffled"] for name in ("exact", "bleu")} == pytest.approx(
        {name: direct[name] for name in ("exact", "bleu")}
    )


def test_a_model_that_knows_the_captions_is_right_only_for_its_own_pictures():
    task = ImageCaption(**SMALL)
    written = [torch.tensor(task.words.encode(one.caption)) for one in task.examples["test"]]
    found = task.judge("test", written)
    assert (found["exact"], found["bleu"]) == (1, pytest.approx(100))
    assert found["exact_shuffled"] == 0
    assert found["bleu_shuffled"] < 60
    blind = task.judge("test", written[:1] * len(written))
    assert blind["bleu"] == pytest.approx(blind["bleu_shuffled"])
    assert blind["exact"] == blind["exact_shuffled"] == 1 / 12
    said = task.transcripts("test", written)
    assert said["references.txt"] == said["hypotheses.txt"] == "".join(f"{x.caption}\n" for x in task.examples["test"])
    assert said["scores.txt"].startswith("BLEU = 100.00")
    assert "|version:" in said["scores.txt"]


@pytest.mark.parametrize("make", [ImageCaption, VideoCaption])
def test_the_nearest_picture_is_that_of_a_naive_search(make):
    task = make(**SMALL)

    def pixels(one):
        chosen = [round(n * (len(one.frames) - 1) / 7) for n in range(8)]
        return one.frames[chosen].double().flatten() / 255

    known = [(pixels(one), one.caption) for one in task.examples["train"]]
    expected = [
        min(known, key=lambda pair: float((pair[0] - pixels(one)).square().sum()))[1] for one in task.examples["valid"]
    ]
    assert task.nearest("valid") == expected
    stated = task.baselines("valid")
    references = [one.caption for one in task.examples["valid"]]
    assert stated["nearest"] == scores(expected, references)
    assert stated["nearest"]["exact"] == 0, "no caption of the validation set is in training"


@pytest.mark.parametrize("options", [{"corpus": "coco"}, {"held_out": "words"}, {"eval_size": 1}, {"pool": 0}])
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(InputError, match=rf"task\.{next(iter(options))}="):
        ImageCaption(**options)


def trained(task):
    torch.manual_seed(1)
    return EncoderDecoder(task.input, task.output_size, find("gru"), source=task.source, hidden_size=8).eval()


def test_samples_are_pictures_with_their_captions():
    for task, suffixes in (
        (ImageCaption(**SMALL, longest_output=9), [".txt", ".png"]),
        (VideoCaption(**SMALL, longest_output=9), [".txt", ".png", ".gif"]),
    ):
        samples = task.sample(trained(task))
        assert [sample.suffix for sample in samples] == suffixes
        shown = [one.caption for one in task.examples["valid"][::3]]
        assert [line[9:] for line in samples[0].content.splitlines() if line.startswith("true: ")] == shown
        for sample in samples[1:]:
            picture = Image.open(io.BytesIO(sample.content))
            assert picture.format == sample.suffix[1:].upper()
        if suffixes[-1] == ".gif":
            assert picture.n_frames == max(len(one.frames) for one in task.examples["valid"][::3])


@pytest.mark.parametrize("make", [ImageCaption, VideoCaption])
def test_the_weights_shown_are_those_of_each_word_and_frame(make, monkeypatch):
    task, shown = make(**SMALL, longest_output=5), []
    monkeypatch.setattr(_show, "samples", lambda *given: shown.extend(given) or [])
    task.sample(trained(task))
    videos, weights, words, _ = shown
    for video, one, said in zip(videos, weights, words, strict=True):
        assert len(one) == len(said)
        assert one.shape[1:] == ((4, 4) if make is ImageCaption else (len(video),))
        torch.testing.assert_close(one.flatten(1).sum(1), torch.ones(len(said)))


@pytest.mark.parametrize("make", [ImageCaption, VideoCaption])
def test_a_picture_file_is_described_as_the_picture_in_it(make, tmp_path):
    task = make(**SMALL)
    model, one = trained(task), task.examples["test"][3]
    large = [
        Image.fromarray(frame.permute(1, 2, 0).numpy()).resize((96, 96), Image.Resampling.NEAREST)
        for frame in one.frames
    ]
    path = tmp_path / "mine.webp"
    large[0].save(path, save_all=True, append_images=large[1:], lossless=True)
    assert torch.equal(task.asked(str(path)), one.frames)
    expected = task.texts(task.captions(model, [one.frames]))[0]
    assert "".join(task.speaker(model, 0, 0, 0).generate(str(path), 40)) == expected
    assert task.generate(model, str(path), 40, 0, 0, 0)[0].content == expected
    assert task.answer(model, [str(path)] * 3) == [expected] * 3


def test_files_that_are_no_pictures_are_refused(tmp_path):
    task = ImageCaption(**SMALL)
    with pytest.raises(InputError, match=r"prompt='.*none\.png' is not a file; give the path of a picture"):
        task.asked(str(tmp_path / "none.png"))
    text = tmp_path / "text.png"
    text.write_text("no picture")
    with pytest.raises(InputError, match=r"text\.png is not a picture; give a PNG"):
        task.asked(str(text))
    cut = tmp_path / "cut.png"
    Image.new("RGB", (64, 64), "red").save(cut)
    cut.write_bytes(cut.read_bytes()[:80])
    with pytest.raises(InputError, match=r"cut\.png cannot be read as a picture"):
        task.asked(str(cut))


def test_transparent_pixels_are_white(tmp_path):
    path = tmp_path / "clear.png"
    Image.new("RGBA", (50, 40), (200, 0, 0, 0)).save(path)
    assert (ImageCaption(**SMALL).asked(str(path)) == 255).all()


def test_the_vocabulary_travels_with_a_model():
    first, other = ImageCaption(**SMALL), ImageCaption(corpus="emoji", data_root="/nowhere")
    other.restore(first.memory())
    assert other.words.encode("a small red circle") == first.words.encode("a small red circle")
    assert other.output_size == first.output_size


@pytest.mark.slow
def test_nlvr_is_the_true_sentences_of_the_published_files(data_root):
    task = ImageCaption(corpus="nlvr", data_root=data_root)
    captions = {split: [one.caption for one in examples] for split, examples in task.examples.items()}
    pixels = {split: {one.frames.numpy().tobytes() for one in task.examples[split]} for split in captions}
    for a, b in itertools.combinations(captions, 2):
        assert not set(captions[a]) & set(captions[b])
        assert not pixels[a] & pixels[b]
    # 547, 556 and 546 of the published examples are true; a picture of two sentences is in one split only
    assert 1640 <= sum(map(len, captions.values())) <= 547 + 556 + 546
    archive = next((Path(data_root) / "nlvr").glob("*.tar.gz"))
    with tarfile.open(archive) as files:
        rows = [json.loads(line) for line in files.extractfile("nlvr/dev/dev.json").read().splitlines()]
        row = next(row for row in rows if row["label"] == "true")
        name = f"nlvr/dev/images/{row['directory']}/dev-{row['identifier']}-0.png"
        picture = np.array(Image.open(files.extractfile(name)).convert("RGB"), float)
    small = picture.reshape(25, 4, 100, 4, 3).mean((1, 3))
    (one,) = (
        one
        for examples in task.examples.values()
        for one in examples
        if np.abs(one.frames[0].permute(1, 2, 0).numpy() - small).max() <= 1
    )
    assert one.caption == " ".join(row["sentence"].lower().split()).rstrip(" .")


def test_a_damaged_archive_is_refused(tmp_path):
    folder = tmp_path / "nlvr"
    with pytest.raises(InputError, match=r"git clone https://github\.com/lil-lab/nlvr"):
        ImageCaption(corpus="nlvr", data_root=str(tmp_path)).batch("train", 0)
    folder.mkdir()
    (folder / "nlvr-dev-test-hidden-perm0-png.tar.gz").write_bytes(gzip.compress(b"nothing")[:-3])
    with pytest.raises(InputError, match="is damaged"):
        ImageCaption(corpus="nlvr", data_root=str(tmp_path)).batch("train", 0)


def test_a_clone_of_the_corpus_is_read(tmp_path):
    for part in ("dev", "test", "hidden"):
        folder = tmp_path / "nlvr" / "nlvr" / part / "images" / "0"
        folder.mkdir(parents=True)
        rows = []
        for n in range(30):
            rows.append(
                {"identifier": f"{n}-0", "sentence": f"There are  {n} {part}.", "label": "true" if n else "false"}
            )
            Image.new("RGB", (400, 100), (n, len(part), 0)).save(folder / f"{part}-{n}-0-0.png")
        (folder.parents[1] / f"{part}.json").write_text("\n".join(map(json.dumps, rows)))
    task = ImageCaption(corpus="nlvr", data_root=str(tmp_path))
    found = {one.caption: one.frames for examples in task.examples.values() for one in examples}
    assert set(found) == {f"there are {n} {part}" for n in range(1, 30) for part in ("dev", "test", "hidden")}
    assert found["there are 7 test"][0, :, 3, 3].tolist() == [7, 4, 0]
    (tmp_path / "nlvr" / "nlvr" / "dev" / "images" / "0" / "dev-3-0-0.png").unlink()
    with pytest.raises(InputError, match=r"has no file dev-3-0-0\.png"):
        ImageCaption(corpus="nlvr", data_root=str(tmp_path)).batch("train", 0)


def test_emoji_have_their_names_and_all_skin_tones_are_in_one_split(data_root):
    task = ImageCaption(corpus="emoji", data_root=data_root)
    assert sum(map(len, task.examples.values())) == 1911 + 1875
    split_of = {}
    for split, examples in task.examples.items():
        for one in examples:
            assert split_of.setdefault(one.caption, split) == split
            assert one.caption == one.caption.lower()
    by_name = Counter(one.caption for examples in task.examples.values() for one in examples)
    assert by_name["father christmas"] == 6
    (circle,) = (one for examples in task.examples.values() for one in examples if one.caption == "large green circle")
    red, green, blue = circle.frames[0, :, 16, 16].tolist()
    assert green > max(red, blue) + 40
    assert circle.frames[0, :, 0, 0].tolist() == [255, 255, 255]


def test_damaged_emoji_files_are_refused(tmp_path, data_root):
    shutil.copytree(Path(data_root) / "emoji", tmp_path / "emoji")
    for path in (tmp_path / "emoji").iterdir():
        path.chmod(0o644)
    (tmp_path / "emoji").chmod(0o755)
    names = tmp_path / "emoji" / "emoji.json.gz"
    whole = names.read_bytes()
    for content, says in ((whole[:1000], "cannot be decompressed"), (gzip.compress(b"[]"), "expected 1d602e65")):
        names.write_bytes(content)
        with pytest.raises(InputError, match=says):
            ImageCaption(corpus="emoji", data_root=str(tmp_path)).batch("train", 0)
    names.write_bytes(whole)
    sheet = tmp_path / "emoji" / "sheet_twitter_32_indexed_256.png"
    sheet.write_bytes(sheet.read_bytes()[:5000])
    with pytest.raises(InputError, match="SHA-256"):
        ImageCaption(corpus="emoji", data_root=str(tmp_path)).batch("train", 0)


def test_attention_is_drawn_where_the_weights_are():
    """Each word's tile is yellow in the regions of its largest weight, and grey elsewhere."""
    white = np.full((8, 8, 3), 255, np.uint8)
    weights = np.zeros((2, 2, 2))
    weights[0, 0, 1] = weights[1, 1, 0] = 0.5
    pixels = np.array(Image.open(io.BytesIO(overlays([white], [weights], [["a", "b"]], ["title"]))).convert("RGB"), int)
    yellow = (pixels[..., 0] - pixels[..., 2] > 40).nonzero()
    black_part = (np.ptp(pixels, -1) < 8) & (pixels.mean(-1) > 120) & (pixels.mean(-1) < 135)
    columns = np.unique(yellow[1])
    second = columns > columns[0] + 47  # half a tile is 44 pixels wide
    top, bottom = (yellow[0][np.isin(yellow[1], columns[chosen])] for chosen in (~second, second))
    assert top.max() < bottom.min()
    assert black_part.sum() == pytest.approx(2 * 3 * 44 * 44, rel=0.05)


def test_frames_are_dark_where_a_word_attends():
    frames = np.full((4, 8, 8, 3), 255, np.uint8)
    weights = np.array([[0.1, 0.9, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    pixels = np.array(Image.open(io.BytesIO(filmstrip(frames, weights, ["", ""], ""))).convert("L"), int)
    rows, columns = (pixels < 5).nonzero()
    left, right = columns[rows <= np.median(rows)], columns[rows > np.median(rows)]
    assert (left.min(), right.min()) == pytest.approx(((0.9 + 0.55) * 110, (0.9 + 3 * 0.55) * 110), abs=2)
    assert len(left) == pytest.approx(0.55 * 110 * 0.16 * 110, rel=0.1)
