"""The grammar of captions in English, German, Spanish, French and Chinese: gender, number, case and measure words."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from suffuse.world.captions import Phrase

Writer = Callable[["tuple[Phrase, ...]", "str | None", "str | None"], str]


def plural(shape: str) -> str:
    return shape + ("es" if shape == "cross" else "s")


def _series(parts: list[str], comma: str, last: str) -> str:
    return comma.join(parts[:-1]) + last + parts[-1] if len(parts) > 1 else parts[0]


# English ------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8192)
def _english_phrase(phrase: Phrase) -> str:
    words = [word for word in (phrase.size, phrase.texture, phrase.colour) if word]
    article = "an" if words[0][0] in "aeiou" else "a"
    noun = phrase.shape if phrase.count == 1 else plural(phrase.shape)
    return " ".join([(article, "two", "three")[phrase.count - 1], *words, noun])


def english(phrases: tuple[Phrase, ...], relation: str | None, background: str | None) -> str:
    parts = [_english_phrase(phrase) for phrase in phrases]
    text = f"{parts[0]} {relation} {parts[1]}" if relation else _series(parts, ", ", " and ")
    return f"{text} on a {background} background" if background else text


# German: noun (gender, plural, dative plural); adjectives are given as stems that take an ending ---------------------

_DE_NOUN = {
    "circle": ("Kreis", "m", "Kreise"),
    "square": ("Quadrat", "n", "Quadrate"),
    "triangle": ("Dreieck", "n", "Dreiecke"),
    "star": ("Stern", "m", "Sterne"),
    "ring": ("Ring", "m", "Ringe"),
    "heart": ("Herz", "n", "Herzen"),
    "diamond": ("Raute", "f", "Rauten"),
    "cross": ("Kreuz", "n", "Kreuze"),
}
_DE_WORD = {
    "red": "rot",
    "green": "grün",
    "blue": "blau",
    "yellow": "gelb",
    "purple": "violett",
    "orange": "orangefarben",
    "cyan": "cyanfarben",
    "pink": "rosafarben",
    "plain": "einfarbig",
    "striped": "gestreift",
    "dotted": "gepunktet",
    "small": "klein",
    "large": "groß",
    "white": "weiß",
    "grey": "grau",
    "black": "schwarz",
    "beige": "beigefarben",
    "mint": "mintgrün",
}
_DE_RELATION = {"left of": "links von", "right of": "rechts von", "above": "über", "below": "unter"}


@lru_cache(maxsize=8192)
def _german_phrase(phrase: Phrase, dative: bool) -> str:
    noun, gender, many = _DE_NOUN[phrase.shape]
    if phrase.count > 1:
        noun = many + ("n" if dative and not many.endswith("n") else "")
        article, ending = ("zwei", "drei")[phrase.count - 2], "en" if dative else "e"
    elif dative:
        article, ending = {"m": "einem", "n": "einem", "f": "einer"}[gender], "en"
    else:
        article = "eine" if gender == "f" else "ein"
        ending = {"m": "er", "f": "e", "n": "es"}[gender]
    adjectives = [_DE_WORD[word] + ending for word in (phrase.size, phrase.texture, phrase.colour) if word]
    return " ".join([article, *adjectives, noun])


def german(phrases: tuple[Phrase, ...], relation: str | None, background: str | None) -> str:
    parts = [_german_phrase(phrase, bool(relation) and i == 1) for i, phrase in enumerate(phrases)]
    text = f"{parts[0]} {_DE_RELATION[relation]} {parts[1]}" if relation else _series(parts, ", ", " und ")
    return f"{text} auf {_DE_WORD[background]}em Hintergrund" if background else text


# Romance languages: adjectives as (masculine, feminine, masculine plural, feminine plural) ---------------------------

Forms = tuple[str, str, str, str]


def _agree(forms: Forms, feminine: bool, many: bool) -> str:
    return forms[2 * many + feminine]


_ES_NOUN = {
    "circle": ("círculo", "círculos", False),
    "square": ("cuadrado", "cuadrados", False),
    "triangle": ("triángulo", "triángulos", False),
    "star": ("estrella", "estrellas", True),
    "ring": ("anillo", "anillos", False),
    "heart": ("corazón", "corazones", False),
    "diamond": ("rombo", "rombos", False),
    "cross": ("cruz", "cruces", True),
}
_ES_WORD: dict[str, Forms] = {
    "red": ("rojo", "roja", "rojos", "rojas"),
    "green": ("verde", "verde", "verdes", "verdes"),
    "blue": ("azul", "azul", "azules", "azules"),
    "yellow": ("amarillo", "amarilla", "amarillos", "amarillas"),
    "purple": ("morado", "morada", "morados", "moradas"),
    "orange": ("naranja",) * 4,
    "cyan": ("cian",) * 4,
    "pink": ("rosa",) * 4,
    "small": ("pequeño", "pequeña", "pequeños", "pequeñas"),
    "large": ("grande", "grande", "grandes", "grandes"),
    "plain": ("liso", "lisa", "lisos", "lisas"),
    "striped": ("a rayas",) * 4,
    "dotted": ("de lunares",) * 4,
}
_ES_GROUND = {"white": "blanco", "grey": "gris", "black": "negro", "beige": "beige", "mint": "verde menta"}
_ES_RELATION = {
    "left of": "a la izquierda de",
    "right of": "a la derecha de",
    "above": "encima de",
    "below": "debajo de",
}


@lru_cache(maxsize=8192)
def _spanish_phrase(phrase: Phrase) -> str:
    one, many, feminine = _ES_NOUN[phrase.shape]
    several = phrase.count > 1
    article = ("una" if feminine else "un", "dos", "tres")[phrase.count - 1]
    words = [_agree(_ES_WORD[w], feminine, several) for w in (phrase.size, phrase.colour, phrase.texture) if w]
    return " ".join([article, many if several else one, *words])


def spanish(phrases: tuple[Phrase, ...], relation: str | None, background: str | None) -> str:
    parts = [_spanish_phrase(phrase) for phrase in phrases]
    text = f"{parts[0]} {_ES_RELATION[relation]} {parts[1]}" if relation else _series(parts, ", ", " y ")
    return f"{text} sobre un fondo {_ES_GROUND[background]}" if background else text


_FR_NOUN = {
    "circle": ("cercle", "cercles", False),
    "square": ("carré", "carrés", False),
    "triangle": ("triangle", "triangles", False),
    "star": ("étoile", "étoiles", True),
    "ring": ("anneau", "anneaux", False),
    "heart": ("cœur", "cœurs", False),
    "diamond": ("losange", "losanges", False),
    "cross": ("croix", "croix", True),
}
_FR_WORD: dict[str, Forms] = {
    "red": ("rouge", "rouge", "rouges", "rouges"),
    "green": ("vert", "verte", "verts", "vertes"),
    "blue": ("bleu", "bleue", "bleus", "bleues"),
    "yellow": ("jaune", "jaune", "jaunes", "jaunes"),
    "purple": ("violet", "violette", "violets", "violettes"),
    "orange": ("orange",) * 4,
    "cyan": ("cyan",) * 4,
    "pink": ("rose", "rose", "roses", "roses"),
    "small": ("petit", "petite", "petits", "petites"),
    "large": ("grand", "grande", "grands", "grandes"),
    "plain": ("uni", "unie", "unis", "unies"),
    "striped": ("à rayures",) * 4,
    "dotted": ("à pois",) * 4,
}
_FR_GROUND = {"white": "blanc", "grey": "gris", "black": "noir", "beige": "beige", "mint": "vert menthe"}
_FR_RELATION = {"left of": "à gauche", "right of": "à droite", "above": "au-dessus", "below": "en dessous"}


@lru_cache(maxsize=8192)
def _french_phrase(phrase: Phrase) -> str:
    one, many, feminine = _FR_NOUN[phrase.shape]
    several = phrase.count > 1
    article = ("une" if feminine else "un", "deux", "trois")[phrase.count - 1]
    before = [_agree(_FR_WORD[phrase.size], feminine, several)] if phrase.size else []
    after = [_agree(_FR_WORD[word], feminine, several) for word in (phrase.colour, phrase.texture) if word]
    return " ".join([article, *before, many if several else one, *after])


def french(phrases: tuple[Phrase, ...], relation: str | None, background: str | None) -> str:
    parts = [_french_phrase(phrase) for phrase in phrases]
    if relation:
        link = "d'" if phrases[1].count == 1 else "de "
        text = f"{parts[0]} {_FR_RELATION[relation]} {link}{parts[1]}"
    else:
        text = _series(parts, ", ", " et ")
    return f"{text} sur fond {_FR_GROUND[background]}" if background else text


# Chinese: noun with its measure word ----------------------------------------------------------------------------------

_ZH_NOUN = {
    "circle": ("个", "圆形"),
    "square": ("个", "正方形"),
    "triangle": ("个", "三角形"),
    "star": ("颗", "星星"),
    "ring": ("个", "圆环"),
    "heart": ("颗", "爱心"),
    "diamond": ("个", "菱形"),
    "cross": ("个", "十字"),
}
_ZH_WORD = {
    "red": "红色",
    "green": "绿色",
    "blue": "蓝色",
    "yellow": "黄色",
    "purple": "紫色",
    "orange": "橙色",
    "cyan": "青色",
    "pink": "粉色",
    "plain": "纯色",
    "striped": "条纹",
    "dotted": "圆点",
    "small": "小",
    "large": "大",
    "white": "白色",
    "grey": "灰色",
    "black": "黑色",
    "beige": "米色",
    "mint": "薄荷绿",
}
_ZH_RELATION = {"left of": "左边", "right of": "右边", "above": "上方", "below": "下方"}


@lru_cache(maxsize=8192)
def _chinese_phrase(phrase: Phrase) -> str:
    measure, noun = _ZH_NOUN[phrase.shape]
    words = [_ZH_WORD[word] for word in (phrase.colour, phrase.texture, phrase.size) if word]
    return "".join([("一", "两", "三")[phrase.count - 1], measure, *words, noun])


def chinese(phrases: tuple[Phrase, ...], relation: str | None, background: str | None) -> str:
    parts = [_chinese_phrase(phrase) for phrase in phrases]
    text = f"{parts[0]}在{parts[1]}的{_ZH_RELATION[relation]}" if relation else _series(parts, "、", "和")
    return f"{_ZH_WORD[background]}背景上，{text}" if background else text


LANGUAGES: dict[str, Writer] = {"en": english, "de": german, "es": spanish, "fr": french, "zh": chinese}
