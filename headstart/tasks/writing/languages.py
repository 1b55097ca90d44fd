"""Languages as column names and options write them: codes of two or three letters, with a region, or English names."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...data.columns import normal_name

# code, three letters (as NLLB and FLORES have them), English name
_KNOWN = """
af afr Afrikaans | am amh Amharic | ar arb Arabic | az azj Azerbaijani | be bel Belarusian | bg bul Bulgarian
bn ben Bengali | bs bos Bosnian | ca cat Catalan | cs ces Czech | cy cym Welsh | da dan Danish | de deu German
el ell Greek | en eng English | eo epo Esperanto | es spa Spanish | et est Estonian | eu eus Basque | fa pes Persian
fi fin Finnish | fr fra French | ga gle Irish | gl glg Galician | gu guj Gujarati | ha hau Hausa | he heb Hebrew
hi hin Hindi | hr hrv Croatian | hu hun Hungarian | hy hye Armenian | id ind Indonesian | ig ibo Igbo
is isl Icelandic | it ita Italian | ja jpn Japanese | jv jav Javanese | ka kat Georgian | kk kaz Kazakh
km khm Khmer | kn kan Kannada | ko kor Korean | ky kir Kyrgyz | la lat Latin | lb ltz Luxembourgish | lo lao Lao
lt lit Lithuanian | lv lvs Latvian | mk mkd Macedonian | ml mal Malayalam | mn khk Mongolian | mr mar Marathi
ms zsm Malay | mt mlt Maltese | my mya Burmese | nb nob Norwegian | ne npi Nepali | nl nld Dutch | nn nno Nynorsk
no nor Norwegian | pa pan Punjabi | pl pol Polish | ps pbt Pashto | pt por Portuguese | ro ron Romanian
ru rus Russian | sd snd Sindhi | si sin Sinhala | sk slk Slovak | sl slv Slovenian | so som Somali
sq als Albanian | sr srp Serbian | sv swe Swedish | sw swh Swahili | ta tam Tamil | te tel Telugu
tg tgk Tajik | th tha Thai | tl tgl Tagalog | tr tur Turkish | uk ukr Ukrainian | ur urd Urdu | uz uzn Uzbek
vi vie Vietnamese | xh xho Xhosa | yi ydd Yiddish | yo yor Yoruba | zh zho Chinese | zu zul Zulu
"""
_NAMES: dict[str, str] = {key.casefold(): entry.split()[2] for line in _KNOWN.strip().splitlines()
                          for entry in line.split("|") for key in entry.split()}
_NAMES |= {"中文": "Chinese", "英文": "English", "chi": "Chinese", "ger": "German", "fre": "French", "cmn": "Chinese"}
# en_XX, zh-CN, pt-br, deu_Latn, zh-Hant-TW; "my_id" is no Burmese.
_REGION = re.compile(r"(?:[-_](?:[A-Z]{2}|[A-Z][a-z]{3}|[0-9]{3})|-[a-z]{2})(?:[-_][A-Z]{2})?$")


def language_name(text: str) -> str:
    """A language's name in English; what is no known code or name, as it is."""
    return _NAMES.get(_bare(text), text)


def is_language(text: str) -> bool:
    """Whether a column's name means a language."""
    return _bare(text) in _NAMES


def names_of(language: str) -> tuple[str, ...]:
    """What columns in this language may be called; () for no language."""
    if not language:
        return ()
    name = language_name(language)
    return tuple(dict.fromkeys((normal_name(language), _bare(language), *(
        key for key, known in _NAMES.items() if known == name))))


def language_columns(header: Sequence[str]) -> list[str]:
    """The columns that are called by a language, in the file's order."""
    return [name for name in header if is_language(name)]


def _bare(text: str) -> str:
    return normal_name(_REGION.sub("", text.strip()))
