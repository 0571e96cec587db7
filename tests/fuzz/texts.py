"""Texts and numbers that programs often mishandle."""

HUGE_INTEGERS = (
    2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**20, 10**30, 10**309,
)  # fmt: skip
INTEGERS = (
    -(2**63) - 1, -(2**31), -2, -1, 0, 1, 2, 3, 4, 7, 8, 16, 28, 31, 32, 64, 100, 1000, 16_384, 20_000, 100_000_000,
)  # fmt: skip
FLOATS = (
    "0.0", "-0.0", "5e-324", "1e-300", "1e-45", "1e-8", "0.1", "0.5", "0.9999999", "1.0", "1.5", "2.0", "99.0",
    "1e10", "3.5e38", "1e300", "1e308", "1e400", "-1e400", "nan", "-nan", "inf", "-inf", "Infinity",
)  # fmt: skip
ODD_NUMBERS = (
    "", " 1", "1 ", "1_000", "1,5", "1.", ".5", "0x10", "0b1", "1e3", "1e", "--1", "+1", "1j", "\u0661\u0662",
    "\u00bd", "\uff11", "1\n", "1\x00", "9" * 400, "9" * 5000, "1/2", "1;2", "1e-9999", "True", "None", "null",
)  # fmt: skip

NAME_OF_300 = "n" * 300
PATHS = (
    "nowhere", "nowhere/deep/er", "~nobody5/x", "~", "~/x", "/dev/null", "/dev/null/x", "/proc/nowhere/x", ".", "./",
    "..", "here/../here", NAME_OF_300, f"{NAME_OF_300}/x", f"new/{NAME_OF_300}.png", "new folder/x y", "[red]",
    "[/b]/[bold]", "x.pth", "x.safetensors", "x.json", "x.png", "x.py", "-x", "--x", "a:b", "caf\u00e9", "cafe\u0301",
    "\udcff\udcfe", "a\x00b", "a\nb", " ", "x ", " x", "CON", "x" * 250 + ".png", "/".join("d" * 40), "dangling",
    "loop", "empty", "file", "file/x",
)  # fmt: skip
ADDRESSES = (
    "https://example.com/x.png", "http://[::1", "file:///nowhere", "gs://bucket/run", "s3://bucket/run", "hf:",
    "hf:no/such", "hf:a/b/c", "hf:../..", "hf:no/such@main", "imagefolder:", "imagefolder:nowhere",
    "imagefolder:~nobody5/x", "imagefolder:file", "imagefolder:empty", "imagefolder:a\x00b",
    f"imagefolder:{NAME_OF_300}", "imagefolder:pictures/train", "localhost:1", "host:99999", "[::1]:x", "tfds:mnist",
    "mnist:3.0.1", "mnist/x", "../mnist",
)  # fmt: skip
MARKUP = (
    "[red]", "[/red]", "[/]", "[bold]x[/bold]", "[link=x]y", "[[", "<b>", "&amp;", "\x1b[31mred\x1b[0m", "%s%d%n",
    "%(x)s", "{}", "{0}", "{x!r}", "${HOME}", "$(id)", "`id`", "\\", "\\n", "\\x00", "|", "^", "~", "*", "?", "[",
    "(", "((((((((((", "a{99999}", "(a+)+$", "(?P<x", "\\Z(?!x)",
)  # fmt: skip
QUOTES = (
    "'", '"', '"\'"\'"', "'x", 'x"y', "\u201cx\u201d", "''", '""', "'\"'\"'",
)  # fmt: skip
UNICODE = (
    "\u65e5\u672c\u8a9e", "\U0001f431", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u202etxt", "\ufeffx",
    "\ufb01", "\u0130", "\u00df", "\u0000", "\u0007", "\u0085", "\u2028x", "\ud800", "\udcff", "e\u0301" * 50,
    "\U0010ffff", "\u200b", "\u00a0",
)  # fmt: skip
BLANKS = (
    "", " ", "\t", "\n", "\r\n", "a\nb", "a\r\nb", "\n\n\n", "a\tb", "x" * 5000,
)  # fmt: skip
SEPARATORS = (
    ":", "::", ":x", "x:", "=", "=x", "x=", "x==y", "x=1=2", ",", ",,", "1,", ",1", "a,b,,c", ";", "#", "!", "@x",
    "@", "-", "--", "---", "-1", "-x", "--x", "--help", "-h", "--version", "/x:y", "x.y.z", "..x",
)  # fmt: skip
WORDS = (
    "None", "none", "null", "True", "false", "nan", "all", "auto", "full", "default", "x", "0", "1", "2147483648",
    "1e400", "-1", "lenet", "LENET5", "lenet5 ", "resnet20", "conv", "train", "test", "latest", "best",
)  # fmt: skip
CALLS = (
    "__import__('os').system('touch hacked')", "lambda: 0", "1; import os", "os.system", "{'a': 1}", "[1, 2]", "(1,",
    "1 if 1 else 2", "[" * 300, "(" * 300 + ")" * 300, "-" * 3000 + "1", "1" + "+1" * 2000,
)  # fmt: skip
# `summary` calls what it is given, so these must be harmless in the process of the fuzzer, unless they end it.
ATTRIBUTES = (
    "net:Small", "net:small", "net:SMALL", "net:needs", "net:fails", "net:wrong", "net:function", "net:nothing",
    "net:three", "net:exits", "net:recursion", "net:no_signature", "net:Abstract", "net:missing", "net", "net:",
    "net:Small.width", "net:Small:x", "broken:x", "unparsable:x", "exits:x", "builtins:Exception", "builtins:print",
    "builtins:dict", "builtins:object", "builtins:type", "builtins:property", "builtins:len", "builtins:None",
    "flax.linen:Module", "flax.linen:Dense", "flax.linen:BatchNorm", "flax.linen:relu", "jax.numpy:sum", "jax:grad",
    "jaxcnn:create_model", "jaxcnn.models:list_models", "math:pi", "json:loads", "os:abort", "os:getcwd", "sys:exit",
    "os.path:join", "collections:OrderedDict", ":Module", ":", "::", ".:x", "..net:x", ".net:Small", "nowhere:Net",
    "no where:Net", "n\x00t:Net", "net:N\x00t", "\u65e5:\u672c", "file:x", "net.py:Small", "./net.py:Small",
    "pictures:x",
)  # fmt: skip

TEXTS = (*PATHS, *ADDRESSES, *MARKUP, *QUOTES, *UNICODE, *BLANKS, *SEPARATORS, *WORDS, *CALLS)
