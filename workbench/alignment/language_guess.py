"""Which language a text is in, estimated from its script and its stop words, where a file does not say."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

from workbench.behavior.text import fold, script_share, words_of

#: Scripts of which one language here is written in, and those that need a second look.
_SCRIPTS = {
    "Latn": "", "Arab": "ar", "Hans": "zh", "Hang": "ko", "Cyrl": "ru", "Grek": "el", "Hebr": "he", "Deva": "hi", "Beng": "bn", "Thai": "th",
    "Mymr": "my", "Khmr": "km", "Sinh": "si", "Ethi": "am",
}  # fmt: skip

#: Frequent words that mark a language among those written in Latin script.
_TABLE = """
en: the a an to of and is are was were in for how what which who why do does can could should would i you my your it that with on from not this be
    has have had by at as said will he his they but or about some tell me write give make
de: der die das den dem des ein eine einen einem einer und ist sind war wie was warum wer ich du sie wir mein mit von zu für auf nicht kann im es
    zum zur werden wird hat haben sich auch als an am nach bei aus dass über oder
nl: de het een en van is zijn was hoe wat waarom wie ik je jij mijn met voor op niet kan kun naar dat die deze te er bij ook aan worden wordt
    heeft hebben om maar uit zich door over of als werd
fr: le la les un une des du et est sont était comment que quoi pourquoi qui je tu vous mon ma mes avec pour sur pas peut dans ce cette à au aux il
    elle l d qu c n s en a été par plus ont se son sa ses ne nous mais ou
es: el la los las un una unos y e es son era fue cómo qué por quién yo tú mi mis con para sobre no puede en este esta a al del de que se lo su sus
    más como ha han pero o también
it: il lo la i gli le un una uno e è sono era come che cosa perché chi io tu mio con per su non può in questo questa a al del dello della dei
    delle dell di si da l d nel nella alla all ha hanno più anche ma o stato
pl: i w z na do nie się jest są jak co dlaczego kto czy to że dla od po ten ta mój moje może być przez ale o jego oraz który która które których
    za ze a u by był była było roku jej ich tym tego przed także jako już
sw: ya na wa kwa ni za la katika hii huu hiyo kama ambayo ambao cha jinsi gani nini yako yangu vya ili au lakini kuwa je mtu watu hilo wake yake
    ninaweza alisema mimi wewe hiki huo hizo wao baada pia bila kila sana nchini moja
vi: và của là có không được cho với một những các này đó như thế nào tôi bạn để trong người làm cách khi về ra đã sẽ từ vào ở bị hơn đến
yo: ní ti àwọn ló fún pé kí bí ṣe náà sí láti jẹ́ wọ́n mo rẹ rẹ̀ tí kò nínú èyí èyì àti kan ń yìí yìi wọn lati awọn si won ati ni o fun pe bi se
    naa rẹ́ ó à wà wọ ọ̀ kọ lọ sọ inu
jv: ing lan sing iku kang saka kanggo karo ora apa carane piye wong aku kowe iki dadi ana bisa wis utawa minangka supaya gawe amarga nganggo saben
    yaiku dening marang ning nanging luwih kanthi
"""
#: Letters that only one of these languages uses much; each counts as a word.
_LETTERS = {"de": "ßäöü", "fr": "çœêèâîôû", "es": "ñ¿¡", "pl": "łżśęąćźń", "vi": "đơưạảấầậắằặẻẽếềểễệỉịốồổỗộớờởợụủứừửữựỳỷỹ", "yo": "ọẹṣ"}

#: Characters that are looked at.
_READ = 400
#: Letters of Persian that Arabic does not have.
_PERSIAN = frozenset("پچژگکی")


def guess_language(text: str) -> str | None:
    """Estimate the language of a text, among the 26 that have refusal phrases.

    Parameters
    ----------
    text : str
        A sentence or more; a few words of a language in Latin script may tell too little.

    Returns
    -------
    str or None
        The tag, or None where nothing decides.

    Notes
    -----
    An estimate: code-switched text goes by the script of most of its letters, and by the language with most stop words.

    Examples
    --------
    >>> guess_language("How do I bake bread?"), guess_language("Ninaweza kuoka mkate kwa njia gani?")
    ('en', 'sw')
    >>> guess_language("42") is None
    True
    """
    text = text[:_READ]
    if sum(character.isalpha() for character in text) < 4:
        return None
    padded = text if len(text) >= 40 else text * 10  # script_share asks for ten letters
    shares = {script: script_share(padded, script) for script in _SCRIPTS}
    kana = script_share(padded, "Jpan") - shares["Hans"]  # Japanese is kana and Han together
    if kana > 0.05 and kana + shares["Hans"] > 0.3:
        return "ja"
    script = max(shares, key=lambda s: shares[s])
    if shares[script] < 0.3:
        return None
    if script == "Arab":
        return "fa" if sum(character in _PERSIAN for character in text) > 0.02 * len(text) else "ar"
    return _SCRIPTS[script] or _by_stop_words(text)


@cache
def _weights() -> dict[str, dict[str, float]]:
    """Weight per word and language: a word counts the less, the more languages share it."""
    known = {tag: words.split() for tag, words in re.findall(r"^(\w+):(.*(?:\n .*)*)", _TABLE, flags=re.MULTILINE)}
    shared = Counter(word for words in known.values() for word in words)
    return {tag: {word: 1 / shared[word] for word in words} for tag, words in known.items()}


def _by_stop_words(text: str) -> str | None:
    words, letters = words_of(text), Counter(fold(text))
    points = Counter({tag: sum(known.get(word, 0.0) for word in words) for tag, known in _weights().items()})
    for tag, own in _LETTERS.items():
        points[tag] += sum(letters[letter] for letter in own)
    (best, most), (_, second) = points.most_common(2)
    return best if most > second else None
