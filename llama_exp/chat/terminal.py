"""Chat in the terminal: a person types, the model's reply is printed as it is generated."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from llama_exp.chat.session import ChatReply, ChatSession, parse_history
from llama_exp.errors import UserError
from llama_exp.records import Turn
from llama_exp.runs.files import read_json, remove_leftovers, write_json
from llama_exp.sanitize import unfiltered, valid_unicode, visible

HELP = """  /system TEXT   set another system prompt and start a new conversation (without TEXT: show it)
  /reset         start a new conversation
  /history       show the conversation
  /save [FILE]   write the conversation as JSON (default: a new file in the run's folder)
  /load FILE     continue a conversation saved here or on the page
  /quit          or Ctrl-D
End a line in \\ to continue on the next one. Ctrl-C stops a reply. Type // for a message that begins with /."""


class TerminalChat:
    """One conversation and its history; a method do_NAME for each command /NAME."""

    def __init__(self, session: ChatSession):
        self.session = session
        self.system, self.history = session.system, []
        self.over = False

    def show(self, text: str) -> None:
        print(text, flush=True)

    def start(self) -> None:
        self.show(f"{self.session.name}. Type /help for the commands.")
        if self.system:
            self.show(f"system: {visible(self.system)}")
        if note := self.session.format_note:
            self.show(note)

    def handle(self, line: str) -> None:
        """A line that was typed: a command or a message."""
        line = valid_unicode(line).strip()
        if line.startswith("//"):
            self.reply(line[1:])
        elif line.startswith("/"):
            name, _, argument = line[1:].partition(" ")
            command = getattr(self, f"do_{name}", None)
            if command is None:
                return self.show(f"No command /{visible(name)}.\n{HELP}")
            try:
                command(argument.strip())
            except UserError as error:
                self.show(str(error))
        elif line:
            self.reply(line)

    def reply(self, message: str) -> None:
        """Print the reply as it is generated. What came before Ctrl-C stays part of the conversation."""
        pieces, reply = [], None
        try:
            with contextlib.closing(self.session.ask(message, self.history, system=self.system)) as stream:
                for piece in stream:
                    if isinstance(piece, ChatReply):
                        reply = piece
                    else:
                        pieces.append(piece)
                        print(visible(piece), end="", flush=True)
        except KeyboardInterrupt:
            pass
        except UserError as error:
            return self.show(str(error))
        text = "".join(pieces)
        print("" if text else "(empty reply)", flush=True)
        if reply is None:
            self.show("[stopped]")
        elif not reply.finished:
            self.show(f"[cut at {reply.tokens} tokens: max_new_tokens={2 * reply.tokens} for more]")
        if reply and reply.shortened:
            self.show("[the conversation is too long: its oldest part was left out. /reset starts a new one]")
        if text:
            self.history += self.session.turns(message, text)

    def do_help(self, argument: str) -> None:
        self.show(HELP)

    def do_reset(self, argument: str) -> None:
        self.history = []
        self.show("[new conversation]")

    def do_system(self, argument: str) -> None:
        if argument:
            self.system, self.history = argument, []
        self.show(f"system: {visible(self.system) or '(none)'}")

    def do_history(self, argument: str) -> None:
        for turn in self.history:
            self.show(f"{'you' if turn.role == 'user' else 'model'}: {visible(turn.text)}")

    def do_save(self, argument: str) -> None:
        path = Path(argument).expanduser() if argument else self._next_file()
        turns = [{"role": turn.role, "text": turn.text} for turn in self.history]
        try:
            if path.exists():
                read_conversation(path)
        except (UserError, OSError) as error:
            raise UserError(f"{error} It was not overwritten. Another name: /save FILE") from None
        remove_leftovers(self.session.chats_folder)
        try:
            write_json(path, {"model": self.session.name, "system": self.system, "turns": turns})
        except OSError as error:
            raise UserError(f"Cannot write {path}: {error.strerror}. Another place: /save FILE") from None
        self.show(f"[saved: {path}]")

    def do_load(self, argument: str) -> None:
        if not argument:
            raise UserError("Which file? /load FILE")
        self.system, sides = read_conversation(Path(argument).expanduser())
        side = "untuned" if self.session.run.is_untuned and "untuned" in sides else next(iter(sides))
        self.history = list(sides[side])
        if len(sides) > 1:
            self.show(f"[saved on the page: its {side} side]")
        self.do_history("")

    def do_quit(self, argument: str) -> None:
        self.over = True

    def _next_file(self) -> Path:
        folder = self.session.chats_folder
        return next(path for number in range(1, 100_000) if not (path := folder / f"{number:03}.json").exists())


def read_conversation(path: Path) -> tuple[str, dict[str, tuple[Turn, ...]]]:
    """(system prompt, {side: turns}) of a saved conversation: /save writes the tuned side, the page one or two
    sides."""
    try:
        saved = read_json(path)
        sides = saved["conversations"] if "conversations" in saved else {"tuned": saved["turns"]}
        if not sides:
            raise UserError("it is empty")
        history_by_side = {str(side): parse_history(turns) for side, turns in {**sides}.items()}
        return valid_unicode(str(saved["system"])), history_by_side
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}.") from None
    except KeyError as error:
        raise UserError(f"{path}: not a saved conversation (there is no {error}).") from None
    except (UserError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a saved conversation ({error}).") from None


def chat_in_terminal(session: ChatSession) -> None:
    """Until /quit or the end of input."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (arrow keys and earlier lines in input())
    chat = TerminalChat(session)
    chat.start()
    while not chat.over:
        try:
            with _prompt_interrupts():
                line = read_line("> ")
            chat.handle(line)
        except EOFError:
            print()
            return
        except KeyboardInterrupt:  # at the prompt: the line being typed is discarded
            print("\n[type /quit or Ctrl-D to leave]")


@contextlib.contextmanager
def _prompt_interrupts() -> Iterator[None]:
    """Inside, Ctrl-C ends an input() within half a second at most.

    CPython checks for signals and then waits for a key: a signal that comes in between would be handled at the next key
    only (1 in 10,000 on a busy machine). A timer that interrupts the wait makes it check again.
    """
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def read_line(prompt: str) -> str:
    """A line, or several where each but the last ends in a backslash."""
    lines = [input(prompt)]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input(". "))
    return "\n".join(lines)


def answer_once(session: ChatSession, message: str) -> None:
    """Print the reply to one message and nothing else on standard output.

    To a terminal with control characters made visible; elsewhere exactly as generated.
    """
    shown, out = (visible, sys.stdout) if sys.stdout.isatty() else (str, unfiltered(sys.stdout))
    if note := session.format_note:
        print(note, file=sys.stderr)
    reply = None
    for piece in session.ask(message):
        if isinstance(piece, ChatReply):
            reply = piece
        else:
            print(shown(piece), end="", flush=True, file=out)
    print(flush=True, file=out)
    if reply.shortened:
        print("Note: the prompt was too long and was shortened, as in training.", file=sys.stderr)
    if not reply.finished:
        print(f"Note: cut at {reply.tokens} tokens; max_new_tokens={2 * reply.tokens} for more.", file=sys.stderr)


def redirect_to_stderr() -> contextlib.AbstractContextManager:
    """What is printed while loading goes to standard error: standard output holds the answers alone."""
    return contextlib.redirect_stdout(sys.stderr)
