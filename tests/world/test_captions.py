from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suffuse.core.errors import BadInput
from suffuse.world import (
    BACKGROUNDS,
    COLOURS,
    RELATIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    Caption,
    Phrase,
    describe,
    holds,
    parse,
    sample_scenes,
    scenes_from_caption,
    vocabulary,
)

phrases = st.builds(
    Phrase,
    st.sampled_from(SHAPES),
    st.sampled_from(COLOURS),
    st.sampled_from((None, *TEXTURES)),
    st.sampled_from((None, *SIZES)),
    st.integers(1, 3),
)
captions = st.builds(
    Caption,
    st.lists(phrases, min_size=1, max_size=3).map(tuple),
    st.none(),
    st.sampled_from((None, *BACKGROUNDS)),
)
related = st.builds(
    Caption, st.tuples(phrases, phrases), st.sampled_from(RELATIONS), st.sampled_from((None, *BACKGROUNDS))
)


@given(captions | related)
def test_parse_inverts_text(caption):
    assert parse(caption.text()) == caption


@given(captions | related, st.sampled_from(("de", "es", "fr", "zh")))
def test_every_language_tells_captions_apart_that_english_does(caption, language):
    other = Caption(caption.phrases[::-1], caption.relation, caption.background)
    assert (caption.text(language) == other.text(language)) == (caption == other)


TYPICAL = Caption((Phrase("circle", "red"), Phrase("square", "blue")), "left of")
FULL = Caption((Phrase("star", "orange", "striped", "small"), Phrase("cross", "purple")), "above", "white")
COUNTED = Caption((Phrase("star", "blue", count=3),), None, "mint")
LISTED = Caption((Phrase("heart", "green"), Phrase("diamond", "pink"), Phrase("ring", "cyan")))


@pytest.mark.parametrize(
    ("caption", "language", "text"),
    [
        (TYPICAL, "en", "a red circle left of a blue square"),
        (TYPICAL, "de", "ein roter Kreis links von einem blauen Quadrat"),
        (TYPICAL, "es", "un círculo rojo a la izquierda de un cuadrado azul"),
        (TYPICAL, "fr", "un cercle rouge à gauche d'un carré bleu"),
        (TYPICAL, "zh", "一个红色圆形在一个蓝色正方形的左边"),
        (FULL, "en", "a small striped orange star above a purple cross on a white background"),
        (FULL, "de", "ein kleiner gestreifter orangefarbener Stern über einem violetten Kreuz auf weißem Hintergrund"),
        (FULL, "es", "una estrella pequeña naranja a rayas encima de una cruz morada sobre un fondo blanco"),
        (FULL, "fr", "une petite étoile orange à rayures au-dessus d'une croix violette sur fond blanc"),
        (FULL, "zh", "白色背景上，一颗橙色条纹小星星在一个紫色十字的上方"),
        (COUNTED, "en", "three blue stars on a mint background"),
        (COUNTED, "de", "drei blaue Sterne auf mintgrünem Hintergrund"),
        (COUNTED, "es", "tres estrellas azules sobre un fondo verde menta"),
        (COUNTED, "fr", "trois étoiles bleues sur fond vert menthe"),
        (COUNTED, "zh", "薄荷绿背景上，三颗蓝色星星"),
        (LISTED, "en", "a green heart, a pink diamond and a cyan ring"),
        (LISTED, "de", "ein grünes Herz, eine rosafarbene Raute und ein cyanfarbener Ring"),
        (LISTED, "es", "un corazón verde, un rombo rosa y un anillo cian"),
        (LISTED, "fr", "un cœur vert, un losange rose et un anneau cyan"),
        (LISTED, "zh", "一颗绿色爱心、一个粉色菱形和一个青色圆环"),
    ],
)
def test_text(caption, language, text):
    assert caption.text(language) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red",
        "a circle",
        "a red blue circle",
        "a red dragon",
        "a red circle left of a blue square and a green star",
        "a red circle on a loud background",
        "a red circle and",
        "red a circle",
    ],
)
def test_parse_refuses_what_it_does_not_understand(text):
    with pytest.raises(BadInput, match="text="):
        parse(text)


def test_parse_names_the_nearest_word():
    with pytest.raises(BadInput, match="circle"):
        parse("a red circel")


def test_an_unknown_language_is_refused():
    with pytest.raises(BadInput, match="language='xx'"):
        TYPICAL.text("xx")


def test_captions_are_true_of_their_scenes():
    scenes = sample_scenes(500, 3)
    for row, caption in enumerate(describe(scenes, 3)):
        count = int(scenes.count[row])
        assert caption.count == count
        left = [(SHAPES[scenes.shape[row, i]], COLOURS[scenes.colour[row, i]], i) for i in range(count)]
        for phrase in caption.phrases:
            mine = [i for shape, colour, i in left if (shape, colour) == (phrase.shape, phrase.colour)]
            assert len(mine) == phrase.count
            assert phrase.size is None or all(SIZES[scenes.size[row, i]] == phrase.size for i in mine)
            assert phrase.texture is None or all(TEXTURES[scenes.texture[row, i]] == phrase.texture for i in mine)
        assert caption.background in (None, BACKGROUNDS[scenes.background[row]])
        if caption.relation:
            first, second = (
                next(i for shape, colour, i in left if (shape, colour) == (phrase.shape, phrase.colour))
                for phrase in caption.phrases
            )
            dx = float(scenes.x[row, second] - scenes.x[row, first])
            dy = float(scenes.y[row, second] - scenes.y[row, first])
            assert holds(caption.relation, dx, dy)


def test_scenes_without_objects_are_not_described():
    scenes = sample_scenes(4, 0)
    scenes.present[2] = False
    with pytest.raises(BadInput, match="without objects"):
        describe(scenes, 0)


def test_captions_are_varied_and_seeded():
    scenes = sample_scenes(400, 0)
    captions = describe(scenes, 0)
    assert captions == describe(scenes, 0) != describe(scenes, 1)
    assert {caption.relation for caption in captions} == {None, *RELATIONS}
    assert {caption.background for caption in captions} == {None, *BACKGROUNDS}
    assert {phrase.count for caption in captions for phrase in caption.phrases} == {1, 2, 3}


def test_scenes_from_caption_show_what_is_said():
    captions = [TYPICAL, FULL, COUNTED, LISTED, parse("three large striped purple stars")] * 5
    scenes = scenes_from_caption(captions, 7)
    assert scenes.count.tolist() == [caption.count for caption in captions]
    for row, caption in enumerate(captions):
        for slot, phrase in enumerate(caption.objects):
            assert (SHAPES[scenes.shape[row, slot]], COLOURS[scenes.colour[row, slot]]) == (phrase.shape, phrase.colour)
            assert phrase.size in (None, SIZES[scenes.size[row, slot]])
            assert phrase.texture in (None, TEXTURES[scenes.texture[row, slot]])
        assert caption.background in (None, BACKGROUNDS[scenes.background[row]])
        if caption.relation:
            assert holds(caption.relation, *(float(a[row, 1] - a[row, 0]) for a in (scenes.x, scenes.y)))


def test_vocabulary_is_every_word_of_the_captions():
    words = {
        word for caption in describe(sample_scenes(20_000, 1), 1) for word in caption.text().replace(",", " ,").split()
    }
    assert words == set(vocabulary())
