"""A person types, the model answers as it thinks."""

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from llama_exp.chat.json_lines import past
from llama_exp.chat.session import Answer, Partner
from llama_exp.errors import UserError
from llama_exp.records import Turn
from llama_exp.runs.files import write_json
from llama_exp.sanitize import valid_unicode, visible

HELP = """  /system TEXT   another system prompt (alone: show it); the conversation starts anew
  /reset         forget the conversation
  /history       what was said
  /save [FILE]   write the conversation as JSON (default: a new file in the run's folder)
  /load FILE     go on with a saved conversation, from here or from the page
  /quit          or Ctrl-D
A line that ends in \\ goes on in the next one. Ctrl-C stops a reply. Type // for a message that begins with /."""


class Chat:
    """One conversation: what was said, and the commands that begin with a slash."""

    def __init__(self, partner: Partner, show: Callable[[str], None] | None = None):
        self.partner, self.show = partner, show or (lambda text: print(text, flush=True))
        self.system, self.history = partner.system, []
        self.over = False

    def start(self) -> None:
        self.show(f"{self.partner.named()}. /help shows what can be typed.")
        if self.system:
            self.show(f"system: {visible(self.system)}")
        fields = self.partner.wording.fields
        if len(fields) > 1 and not self.partner.manner.raw:
            self.show(
                f"This run was trained with a wording of {len(fields)} fields ({', '.join(fields)}); what you type is "
                f"sent as it is:\n{visible(self.partner.wording.template)}"
            )

    def said(self, line: str) -> None:
        """A line of the person: a command, or a message."""
        line = valid_unicode(line).strip()
        if line.startswith("//"):
            self.reply(line[1:])
        elif line.startswith("/"):
            name, _, rest = line[1:].partition(" ")
            command = getattr(self, f"do_{name}", None)
            if command is None:
                return self.show(f"No command /{visible(name)}.\n{HELP}")
            try:
                command(rest.strip())
            except UserError as problem:
                self.show(str(problem))
        elif line:
            self.reply(line)

    def reply(self, message: str) -> None:
        """Answer while it comes. What was said before Ctrl-C stays part of the conversation."""
        pieces, answer = [], None
        asked = self.partner.ask(message, self.history, system=self.system)
        try:
            for piece in asked:
                if isinstance(piece, Answer):
                    answer = piece
                else:
                    pieces.append(piece)
                    print(visible(piece), end="", flush=True)
        except KeyboardInterrupt:
            asked.close()
        except UserError as problem:
            return self.show(str(problem))
        text = "".join(pieces)
        print("" if text else "(no words)", flush=True)
        if answer is None:
            self.show("[stopped]")
        elif not answer.finished:
            self.show(f"[cut at {answer.tokens} tokens: max_new_tokens={2 * answer.tokens} for more]")
        if answer and answer.shortened:
            self.show("[the conversation no longer fits: its oldest part was left out. /reset starts anew]")
        if text:
            self.history += self.partner.turns(message, text)

    def do_help(self, rest: str) -> None:
        self.show(HELP)

    def do_reset(self, rest: str) -> None:
        self.history = []
        self.show("[forgotten]")

    def do_system(self, rest: str) -> None:
        if rest:
            self.system, self.history = rest, []
        self.show(f"system: {visible(self.system) or '(none)'}")

    def do_history(self, rest: str) -> None:
        for turn in self.history:
            self.show(f"{'you' if turn.role == 'user' else 'model'}: {visible(turn.text)}")

    def do_save(self, rest: str) -> None:
        path = Path(rest).expanduser() if rest else self._next_file()
        turns = [{"role": turn.role, "text": turn.text} for turn in self.history]
        try:
            if path.exists():
                saved_conversation(path)
        except (UserError, OSError) as error:
            raise UserError(f"{error} It stays as it is. Another name: /save FILE") from None
        try:
            write_json(path, {"model": self.partner.named(), "system": self.system, "turns": turns})
        except OSError as error:
            raise UserError(f"Cannot write {path}: {error.strerror}. Another place: /save FILE") from None
        self.show(f"[saved: {path}]")

    def do_load(self, rest: str) -> None:
        if not rest:
            raise UserError("Which file? /load FILE")
        self.system, sides = saved_conversation(Path(rest).expanduser())
        side = "untuned" if self.partner.run is None and "untuned" in sides else next(iter(sides))
        self.history = list(sides[side])
        if len(sides) > 1:
            self.show(f"[saved on the page: its {side} side]")
        self.do_history("")

    def do_quit(self, rest: str) -> None:
        self.over = True

    def _next_file(self) -> Path:
        folder = (self.partner.run or Path(self.partner.config.outputs)) / "chats"
        return next(path for number in range(1, 100_000) if not (path := folder / f"{number:03}.json").exists())


def saved_conversation(path: Path) -> tuple[str, dict[str, tuple[Turn, ...]]]:
    """(system prompt, {side: its turns}) of a file that /save or the page wrote; the page has several sides, /save the tuned one."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        sides = saved["conversations"] if "conversations" in saved else {"tuned": saved["turns"]}
        if not sides:
            raise UserError("it has no side")
        return valid_unicode(str(saved["system"])), {str(side): past(turns) for side, turns in {**sides}.items()}
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}.") from None
    except KeyError as error:
        raise UserError(f"{path}: not a saved conversation (there is no {error}).") from None
    except (UserError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a saved conversation ({error}).") from None


def talk(partner: Partner) -> None:
    """Until /quit or the end of input."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (arrow keys and earlier lines in input())
    chat = Chat(partner)
    chat.start()
    while not chat.over:
        try:
            with _heeded():
                line = typed("> ")
            chat.said(line)
        except EOFError:
            print()
            return
        except KeyboardInterrupt:  # at the prompt: what was being typed is thrown away
            print("\n[/quit or Ctrl-D ends]")


@contextlib.contextmanager
def _heeded() -> Iterator[None]:
    """Inside, Ctrl-C ends an input() within half a second at most.

    CPython looks for signals and then waits for a key: one that comes in between would be heeded at the next key only
    (1 in 10,000 on a busy machine). A clock that interrupts the wait makes it look again.
    """
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def typed(prompt: str) -> str:
    """A line, or several where each but the last ends in a backslash."""
    lines = [input(prompt)]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input(". "))
    return "\n".join(lines)


def once(partner: Partner, message: str) -> bool:
    """Print the reply to one message and nothing else; whether it ended by itself.

    To a terminal as it comes and with control characters made visible; elsewhere as the model said it.
    """
    shown = visible if sys.stdout.isatty() else str
    answer = None
    for piece in partner.ask(message):
        if isinstance(piece, Answer):
            answer = piece
        else:
            print(shown(piece), end="", flush=True)
    print(flush=True)
    if answer.shortened:
        print("Note: the prompt was too long and was shortened, as in training.", file=sys.stderr)
    if not answer.finished:
        print(f"Note: cut at {answer.tokens} tokens; max_new_tokens={2 * answer.tokens} for more.", file=sys.stderr)
    return answer.finished


@contextlib.contextmanager
def notes_aside():
    """What is printed while loading goes to standard error: standard output holds the answers alone."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
