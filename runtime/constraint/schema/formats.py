"""The formats that are enforced, each as a pattern of texts that its standard admits.

Where a standard admits more than a pattern can say, the pattern admits less: internationalized forms are written in
ASCII, a leap second is never written, and a host is a name. A format that is not listed is an annotation, as JSON
Schema has it. Knows no schema.
"""

from __future__ import annotations

_YEAR = r"[0-9]{4}"
_LEAP_YEAR = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    rf"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_DURATION_TIME = r"T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)"
_DURATION_DATE = r"(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)"
_LETTER = "[A-Za-z0-9]"
_INNER = "[A-Za-z0-9-]"
_LABEL = (
    rf"{_LETTER}(?:{_LETTER}|{_INNER}{_LETTER}|{_INNER}(?:{_LETTER}{_INNER}|-{_LETTER}){_INNER}{{0,58}}{_LETTER}"
    rf"|{_INNER}{_LETTER}{_LETTER})?"
)
"""A label of a host name, at most 63 characters, without hyphens in the third and fourth place: those mark Punycode."""
_HOST = rf"{_LABEL}(?:\.{_LABEL})*"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"(?:{_BYTE}\.){{3}}{_BYTE}"
_HEX = "[0-9A-Fa-f]{1,4}"
_IPV6 = (
    "(?:"
    + "|".join(
        [
            f"(?:{_HEX}:){{7}}{_HEX}",
            f"(?:{_HEX}:){{6}}{_IPV4}",
            *(
                f"(?:{_HEX}(?::{_HEX}){{0,{before - 1}}})?::(?:{_HEX}(?::{_HEX}){{0,{6 - before}}})?"
                for before in range(1, 7)
            ),
            f"(?:{_HEX}:){{6}}{_HEX}::",
            f"::(?:{_HEX}:){{0,5}}{_IPV4}",
        ]
    )
    + ")"
)
_PERCENT = "%[0-9A-Fa-f]{2}"
_NAME = r"[A-Za-z0-9\-._~!$&'()*+,;=]"
_SEGMENT = rf"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]|{_PERCENT})"
_PATH = rf"(?:/{_SEGMENT}*)*"
_AUTHORITY = rf"//(?:(?:[A-Za-z0-9\-._~!$&'()*+,;=:]|{_PERCENT})*@)?(?:{_NAME}|{_PERCENT})*(?::[0-9]*)?"
_TAIL = rf"(?:\?(?:{_SEGMENT}|[/?])*)?(?:#(?:{_SEGMENT}|[/?])*)?"
_URI = rf"[A-Za-z][A-Za-z0-9+\-.]*:(?:{_AUTHORITY}{_PATH}|/(?:{_SEGMENT}+{_PATH})?|{_SEGMENT}+{_PATH}|){_TAIL}"
_FIRST = rf"(?:[A-Za-z0-9\-._~!$&'()*+,;=@]|{_PERCENT})"
_RELATIVE = rf"(?:{_AUTHORITY}{_PATH}|/(?:{_SEGMENT}+{_PATH})?|{_FIRST}+{_PATH}|){_TAIL}"
_REFERENCE = rf"(?:{_URI}|{_RELATIVE})"
_ATOM = r"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]"
_EMAIL = rf"(?=[^@]{{1,64}}@){_ATOM}+(?:\.{_ATOM}+)*@{_HOST}"
_POINTER = r"(?:/(?:[^~/]|~[01])*)*"
_VARIABLE = rf"(?:[A-Za-z0-9_]|{_PERCENT})+(?:\.(?:[A-Za-z0-9_]|{_PERCENT})+)*(?:\*|:[1-9][0-9]{{0,3}})?"
_TEMPLATE = rf"(?:[A-Za-z0-9\-._~:/?#@!$&()*+,;=\[\]]|{_PERCENT}|\{{[+#./;?&]?{_VARIABLE}(?:,{_VARIABLE})*\}})*"
_EXPRESSION = (
    r"\^?(?:[A-Za-z0-9 _\-/:;,=@%&!~<>\"']|\\[dDwWsS.\-/+*?()^$|\[\]{}\\]|\[[A-Za-z0-9 _]+\][*+?]?|\.[*+?]?)*\$?"
)
_HEX_DIGIT = "[0-9A-Fa-f]"

FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": rf"{_DATE}[tT]{_TIME}",
    "duration": rf"P(?:{_DURATION_DATE}(?:{_DURATION_TIME})?|{_DURATION_TIME}|[0-9]+W)",
    "email": _EMAIL,
    "idn-email": _EMAIL,
    "hostname": _HOST,
    "idn-hostname": _HOST,
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "uri": _URI,
    "iri": _URI,
    "uri-reference": _REFERENCE,
    "iri-reference": _REFERENCE,
    "uri-template": _TEMPLATE,
    "uuid": rf"{_HEX_DIGIT}{{8}}(?:-{_HEX_DIGIT}{{4}}){{3}}-{_HEX_DIGIT}{{12}}",
    "json-pointer": _POINTER,
    "relative-json-pointer": rf"(?:0|[1-9][0-9]*)(?:#|{_POINTER})",
    "regex": _EXPRESSION,
}
"""Format -> an expression for the whole of its texts, to be anchored at both ends."""
LONGEST = {"hostname": 253, "idn-hostname": 253, "email": 254, "idn-email": 254}
"""Format -> the most characters that its standards admit, where they say so."""
OUTSIDE = {
    "time": r"^[0-9]{2}:[0-9]{2}:[0-9]{2}",
    "date-time": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}.",
    "email": "@",
    "idn-email": "@",
    "hostname": r"^[^\s@:/]+$",
    "idn-hostname": r"^[^\s@:/]+$",
    "uri": r"^[A-Za-z][A-Za-z0-9+.\-]*:",
    "iri": r"^[A-Za-z][A-Za-z0-9+.\-]*:",
    "uri-reference": r'^[^\s"<>\\^`{|}]*$',
    "iri-reference": r'^[^\s"<>\\^`{|}]*$',
    "uri-template": r'^[^\s"<>\\^`|]*$',
    "regex": "",
}
"""Format of which texts are left out -> an expression that is found in all of its texts, and perhaps in others."""
EXACT = frozenset({"date", "ipv4", "ipv6", "uuid", "json-pointer", "relative-json-pointer", "duration"})
"""Formats whose pattern admits all that the standard does, so that its complement is the format's."""
