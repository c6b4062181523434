"""Encodes text as numbers and decodes them, by pieces of words or by words.

Four numbers are marks: padding, start and end of a sentence, and the unknown. White space of any kind is decoded
as one space, and none at the ends.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from train.runtime.errors import UserError

PADDING, START, END, UNKNOWN = 0, 1, 2, 3
MOST = 1_000_000  # pieces; sentencepiece chooses from as many
_MARKS = 4
_LINE = 1000  # words; the time unigram takes grows with the square of what is said twice
_UNKNOWN = '<unk>'
_SILENT = (PADDING, START, END)
_DAMAGED = 'not a vocabulary, or a damaged one'


class Pieces:
  """sentencepiece's pieces of words, one model for all languages that it was trained on.

  The text is not normalized, so that decoding gives it back, except for U+2581, with which sentencepiece itself writes
  a space: it is decoded as a space.
  """

  def __init__(self, model: bytes):
    self._processor = _sentencepiece().SentencePieceProcessor()
    try:
      self._processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
      raise UserError(f'{_DAMAGED}: sentencepiece cannot read it; take the file from the training again') from error
    if self._marks() != (PADDING, START, END, UNKNOWN):
      raise UserError(f'a sentencepiece model with the marks {self._marks()}; train it here, with 0, 1, 2 and 3')
    self.model = model
    self.size: int = self._processor.get_piece_size()

  def _marks(self) -> tuple[int, ...]:
    one = self._processor
    return one.pad_id(), one.bos_id(), one.eos_id(), one.unk_id()

  @classmethod
  def train(cls, texts: Sequence[str], size: int, kind: Literal['unigram', 'bpe']) -> 'Pieces':
    """Trains ``size`` pieces, the four marks included, or fewer if the texts have no more; all characters are kept."""
    lines = list(_lines(texts))
    characters = {' '}.union(*lines)
    if len(characters) == 1:
      raise UserError('the training texts are empty, so there are no pieces to find; choose other texts')
    if not _MARKS + len(characters) <= size <= MOST:
      raise UserError(
        f'--pieces {size}: the training texts have {len(characters)} characters, each a piece, and there are '
        f'{_MARKS} marks; choose from {_MARKS + len(characters)} to {MOST}'
      )
    return cls(_trained(lines, size, kind))

  def encode(self, text: str) -> list[int]:
    return self._processor.encode(_spaced(text), out_type=int)

  def decode(self, numbers: Iterable[int]) -> str:
    return self._processor.decode([int(number) for number in numbers])  # which writes nothing for the silent marks


def _lines(texts: Iterable[str]) -> Iterator[str]:
  """Cuts lines so that sentencepiece learns every word, and fast; they may be cut since no piece goes beyond a word."""
  for text in texts:
    # what sentencepiece itself writes for the unknown; it leaves out, silently, each line in which it stands
    words = text.replace('\u2585', ' ').split()
    for start in range(0, len(words), _LINE):
      yield ' '.join(words[start : start + _LINE])


def _trained(lines: Sequence[str], size: int, kind: str) -> bytes:
  model = io.BytesIO()
  try:
    _sentencepiece().SentencePieceTrainer.train(
      sentence_iterator=iter(lines),
      model_writer=model,
      vocab_size=size,
      hard_vocab_limit=False,
      model_type=kind,
      character_coverage=1.0,
      normalization_rule_name='identity',
      max_sentence_length=2**30,  # bytes, its most; longer lines are left out, silently
      num_threads=1,  # other numbers of threads find other pieces
      pad_id=PADDING,
      bos_id=START,
      eos_id=END,
      unk_id=UNKNOWN,
      unk_surface=_UNKNOWN,
      minloglevel=2,
    )
  except (RuntimeError, ValueError) as error:
    reason = ' '.join(str(error).split())
    raise UserError(f'--pieces {size}: sentencepiece finds no {kind} pieces ({reason}); choose others') from error
  return model.getvalue()


def _sentencepiece() -> Any:
  try:
    import sentencepiece
  except ImportError as error:
    raise UserError('sentencepiece is not installed: pip install -e ".[text]"') from error
  return sentencepiece


def _spaced(text: str) -> str:
  return ' '.join(text.split())


class Words:
  """Words between white space, the most frequent first; every other word is UNKNOWN, written ``<unk>``."""

  def __init__(self, words: Sequence[str]):
    self.words = tuple(words)  # those of the numbers from 4
    self.size = _MARKS + len(self.words)
    self._numbers = {word: number for number, word in enumerate(self.words, _MARKS)}

  @classmethod
  def train(cls, texts: Iterable[str], size: int) -> 'Words':
    """Takes the most frequent words; of equally frequent ones, the first by code points.

    Args:
      texts: in one language.
      size: of the vocabulary, the four marks included; smaller where the texts have fewer words.
    """
    if size <= _MARKS:
      raise UserError(f'a vocabulary of {size}, of which {_MARKS} are marks; choose a size from {_MARKS + 1}')
    counts = Counter(word for text in texts for word in text.split())
    if not counts:
      raise UserError('the training texts are empty, so there are no words to count; choose other texts')
    return cls(sorted(counts, key=lambda word: (-counts[word], word))[: size - _MARKS])

  def encode(self, text: str) -> list[int]:
    return [self._numbers.get(word, UNKNOWN) for word in text.split()]

  def decode(self, numbers: Iterable[int]) -> str:
    return ' '.join(self._word(int(number)) for number in numbers if number not in _SILENT)

  def _word(self, number: int) -> str:
    if number == UNKNOWN:
      return _UNKNOWN
    if not _MARKS <= number < self.size:
      raise IndexError(f'there is no word {number} in a vocabulary of {self.size}')
    return self.words[number - _MARKS]


Vocabulary = Pieces | Words


def dumped(vocabulary: Vocabulary) -> bytes:
  """Writes a line with the kind and the SHA-256 of the rest, which is sentencepiece's model or the words as JSON."""
  if isinstance(vocabulary, Pieces):
    kind, body = 'pieces', vocabulary.model
  else:
    kind, body = 'words', json.dumps(vocabulary.words).encode()
  return f'lmajax {kind} {digest(body)}\n'.encode() + body


def loaded(content: bytes) -> Vocabulary:
  """Reads what ``dumped`` wrote, once its SHA-256 holds."""
  head, _, body = content.partition(b'\n')
  for kind, read in (('pieces', Pieces), ('words', _of_json)):
    if head == f'lmajax {kind} {digest(body)}'.encode():
      return read(body)
  raise UserError(f'{_DAMAGED}; take the file from the training again')


def digest(content: bytes) -> str:
  """Returns the SHA-256 in hexadecimal digits."""
  return hashlib.sha256(content).hexdigest()


def _of_json(body: bytes) -> Words:
  try:
    words = json.loads(body)
  except ValueError as error:
    raise UserError(f'{_DAMAGED}: its words are not JSON; take the file from the training again') from error
  if not isinstance(words, list) or not all(isinstance(word, str) for word in words) or len({*words}) < len(words):
    raise UserError(f'{_DAMAGED}: its words are not a list of different ones; take the file from the training again')
  return Words(words)
