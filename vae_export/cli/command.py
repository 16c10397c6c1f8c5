"""Commands whose options form groups: dataclasses in the code, sections in the help."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_type_hints

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.models import ParameterInfo

from vae_export.errors import UsageError, unknown_choice

T = TypeVar("T")

#: The help of a command with more options than this has sections.
_MOST_UNSECTIONED = 8
#: The most options that one word of a mistyped one suggests.
_MOST_SIMILAR = 4
#: The section that comes last, with `--help`.
_LAST_SECTION = "Output"
#: Attribute of an option group that holds its section.
_SECTION = "_help_section"
#: The placeholder of each type's values in the help.
_METAVARS = {"int": "N", "float": "X", "str": "NAME", "Path": "PATH"}


@dataclass_transform(frozen_default=True)
def option_group(section: str) -> Callable[[type[T]], type[T]]:
    """Make a class whose fields are typer options a frozen dataclass.

    Args:
        section: the title in the help below which the options stand.
    """

    def decorate(group: type[T]) -> type[T]:
        group = dataclass(frozen=True)(group)
        setattr(group, _SECTION, section)
        return group

    return decorate


def grouped(function: Callable[..., None]) -> Callable[..., None]:
    """Let a command take option groups as parameters: typer sees each field as an option of the command."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, type[Any]] = {}
    options: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        hint = hints[parameter.name]
        if not isinstance(hint, type) or not is_dataclass(hint):
            options.append(parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[parameter.name] = hint
        types = get_type_hints(hint, include_extras=True)
        for field in fields(hint):
            annotation = _in_section(types[field.name], getattr(hint, _SECTION))
            kind = inspect.Parameter.KEYWORD_ONLY
            options.append(inspect.Parameter(field.name, kind, default=field.default, annotation=annotation))

    def command(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        function(**values)

    for name in ("__module__", "__name__", "__doc__"):  # not __wrapped__: typer would read the wrong signature
        setattr(command, name, getattr(function, name))
    command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    command.__annotations__ = {option.name: option.annotation for option in options}
    return command


def _in_section(annotation: Any, section: str) -> Any:
    base, *metadata = get_args(annotation)
    moved = []
    for item in metadata:
        if isinstance(item, ParameterInfo) and item.rich_help_panel is None:
            item = copy(item)
            item.rich_help_panel = section
        moved.append(item)
    return Annotated[(base, *moved)]


class CommandGroup(TyperGroup):
    """The commands; a mistyped one gets a suggestion."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that `args` name. Raises `UsageError` if there is none."""
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            near = difflib.get_close_matches(args[0].lower(), self.commands, 1)
            raise UsageError("unknown command", where=args[0], do=suggestion(near))
        return super().resolve_command(ctx, args)


class Command(TyperCommand):
    """A command whose help shows the options in sections, and values as N, PATH or their choices."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        for param in self.params:
            if isinstance(param, TyperOption):
                param.metavar = param.metavar or _metavar(param)
                param.min = param.max = None  # of the help alone, where it reads "x>=1"
            elif isinstance(param, TyperArgument):
                param.metavar = param.metavar or param.name.upper()

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an error about a value names the option that was typed, not the field that it sets."""
        try:
            return super().invoke(ctx)
        except UsageError as error:
            option = _option_of(error, {name for param in self.params for name in param.opts})
            if option is None:
                raise
            raise UsageError(f"bad {option}", expected=error.expected, got=error.got, do=error.do) from error

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the pieces of the usage line, without the braces that typer puts around choices."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and options in sections, with the section of --help last."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        params = [(param, param.get_help_record(ctx)) for param in self.get_params(ctx)]
        sectioned = sum(isinstance(param, TyperOption) for param, _ in params) > _MOST_UNSECTIONED
        for param, record in params:
            if record is None:
                continue
            section = getattr(param, "rich_help_panel", None) if sectioned else None
            if isinstance(param, TyperArgument):
                section, record = "Arguments", (param.name.upper(), record[1].removesuffix("[required]").rstrip())
            elif sectioned and "--help" in param.opts:
                section = _LAST_SECTION
            sections.setdefault(section or "Options", []).append(record)
        for section in sorted(sections, key=lambda name: name == _LAST_SECTION):
            if sections[section]:
                with formatter.section(section):
                    formatter.write_dl(sections[section], col_max=26)


def _metavar(option: TyperOption) -> str | None:
    if option.type_descriptor.choices:
        return "|".join(map(str, option.type_descriptor.choices))
    annotation: Any = option.type_descriptor.annotation
    (element,) = get_args(annotation) or (annotation,)
    return _METAVARS.get(getattr(element, "__name__", ""))


def choices_option(flag: str, choices: Iterable[str], *, help: str) -> Any:
    """Return an option that can be repeated and takes `choices` only: typer has no lists of `Literal` types.

    Args:
        flag: the name of the option, such as "--format".
        choices: allowed values.
        help: text of the help, with the default.

    Returns:
        The default value of the command's parameter. Its callback raises `UsageError` for any other value.
    """
    known = tuple(choices)

    def check(names: list[str] | None) -> list[str] | None:
        for name in names or ():
            if name not in known:
                raise _unknown_choice(flag, known, name)
        return names

    def complete(incomplete: str) -> list[str]:
        return [name for name in known if name.startswith(incomplete)]

    return typer.Option(flag, metavar="|".join(known), help=help, callback=check, autocompletion=complete)


def suggestion(names: Collection[str]) -> str:
    """Return what to do about a mistyped name: take one of `names`, or read the help where there are none."""
    return f"did you mean {' or '.join(sorted(names))}?" if names else "see --help"


def _similar(typed: str, known: Sequence[str]) -> Sequence[str]:
    """Return the names of options that a mistyped one begins, resembles, or shares a word with.

    So `--verify-m` stands for --verify-minutes, `--forma` for --format, `--outfile` for --out, and `--port` for
    --http-port or --grpc-port.
    """
    if begun := [name for name in known if name.startswith(typed)]:
        return begun
    if near := difflib.get_close_matches(typed, known, 1, 0.7):
        return near
    words = set(re.split("[-_]", typed))
    longer = [name for name in known if len(name) > 1 and (typed.startswith(name) or words & set(name.split("-")))]
    return longer if len(longer) <= _MOST_SIMILAR else []


def _option_for(typed: str, error: typer.TyperException) -> str:
    """Return which option a path belongs to that was typed without one, as far as what lies there tells."""
    from vae_export.artifact.manifest import MANIFEST

    context: Any = getattr(error, "ctx", None)
    known = {option for param in context.command.params for option in param.opts}
    path, first = Path(typed), Path(typed.split()[0])
    if "--data-dir" in known and (path.is_dir() or first.is_file()):
        return _for_pictures(path if path.is_dir() else first.parent)
    fitting = {
        "--export": (path / MANIFEST).is_file(),
        "--run": (path / "export").is_dir() or (path / "checkpoint.safetensors").is_file(),
        "--checkpoint": path.suffix == ".safetensors",
        "--bundle": path.suffix == ".zip",
        "--model": ":" in typed,
        "--file": path.is_file(),
    }
    option = next((option for option, fits in fitting.items() if fits and option in known), None)
    return "see --help" if option is None else f"pass {option} {typed}"


def _other_option(value: str, error: typer.TyperException, flag: str) -> str | None:
    """Return what to pass where another option takes a value that is no choice of this one, or None."""
    context: Any = getattr(error, "ctx", None)
    for param in context.command.params:
        items = [] if flag in param.opts else param.shell_complete(context, value)
        if any((item.type, item.value) == ("plain", value) for item in items):
            return f"did you mean {param.opts[0]} {value}?"
    known = {option for param in context.command.params for option in param.opts}
    return _for_pictures(Path(value)) if "--data-dir" in known and Path(value).is_dir() else None


def _for_pictures(folder: Path) -> str:
    return f"for your own pictures pass --dataset folder --data-dir {folder}"


def _option_of(error: UsageError, known: Collection[str]) -> str | None:
    """Return the option whose value an error is about: "bad learning rate" is about --learning-rate."""
    name = re.fullmatch(r"bad ([a-z][a-z -]*)", error.what)
    option = None if name is None or error.where is not None else f"--{name[1].replace(' ', '-')}"
    return option if option in known else None


def usage_error(error: typer.TyperException) -> UsageError:
    """Return an error of typer's in the form of ours; a mistyped option or choice gets a suggestion."""
    param = getattr(error, "param", None)
    if (typed := getattr(error, "option_name", None)) is not None and hasattr(error, "possibilities"):
        # typer does not export NoSuchOption, and its suggestions count the dashes as letters that fit.
        context: Any = getattr(error, "ctx", None)
        known = {name.strip("-"): name for option in context.command.params for name in option.opts}
        meant = _similar(typed.strip("-"), list(known))
        return UsageError("unknown option", where=typed, do=suggestion([known[name] for name in meant]))
    if hasattr(error, "param_type") and param is not None:  # nor MissingParameter
        return UsageError(f"missing {param.param_type_name}", where=param.name.upper(), do="see --help")
    if extra := re.fullmatch(r"Got unexpected extra arguments?\S* \((.*)\)\.?", error.format_message()):
        return UsageError("unexpected argument", where=extra[1], do=_option_for(extra[1], error))
    # The validation error of pydantic that caused it says what was typed.
    details: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
    if not isinstance(error, typer.BadParameter) or not isinstance(param, TyperOption) or not details:
        return UsageError(error.format_message().rstrip("."), do="see --help")
    flag, problem = param.opts[0], details[0]
    got = str(problem["input"])
    if choices := param.type_descriptor.choices:
        return _unknown_choice(flag, tuple(map(str, choices)), got, _other_option(got, error, flag))
    expected = {"int_parsing": "a whole number", "float_parsing": "a number"}.get(problem["type"])
    if limits := problem.get("ctx", {}):
        expected = (
            f"{limits['ge']} or more" if "ge" in limits else f"{limits['le']} or less" if "le" in limits else None
        )
    return UsageError(f"bad {flag}", expected=expected or problem["msg"], got=got)


def _unknown_choice(flag: str, choices: tuple[str, ...], got: str, other: str | None = None) -> UsageError:
    """Return an error about a value that is no choice of an option; `other` is what to do where no choice is near."""
    error = unknown_choice(flag.strip("-").replace("-", " "), choices, got)
    return error if error.do or other is None else UsageError(error.what, expected=error.expected, got=got, do=other)
