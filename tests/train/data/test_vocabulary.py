"""Vocabularies: text comes back, marks stay apart, files are the same bytes every time, and damage is seen."""

import hashlib
import io
import json
import sys

import numpy as np
import pytest
import sentencepiece

from train.data.corpora import vocabulary
from train.data.corpora.vocabulary import END, PADDING, START, UNKNOWN, Pieces, Words, digest, dumped, loaded
from train.runtime.errors import UserError

TEXTS = [
  *('Ein Hund läuft über die Straße.', 'Ein kleiner Hund und ein großer Hund laufen.') * 3,
  *('A dog runs over the street.', 'A small dog and a big dog run.') * 3,
  *('東京は大きい。', 'ｆｕｌｌ ﬁne ½ ² … „so“ – é e\u0301 😀👩\u200d🚀', '', 'a\tb\u00a0c'),
]
CHARACTERS = set(''.join(TEXTS)) - set('\t\u00a0')
LEAST = 4 + len(CHARACTERS)


@pytest.fixture(scope='module', params=['unigram', 'bpe'])
def kind(request):
  return request.param


@pytest.fixture(scope='module')
def pieces(kind):
  return Pieces.train(TEXTS, LEAST + 20, kind)


def error_of(call, *arguments) -> str:
  with pytest.raises(UserError) as caught:
    call(*arguments)
  assert '\n' not in str(caught.value)
  return str(caught.value)


class TestPieces:
  def test_text_comes_back(self, pieces):
    for text in (*TEXTS, 'Straße  und\u2028Hund ', 'unser 大 Hund😀', ' ', '…½²'):
      numbers = pieces.encode(text)
      assert all(type(number) is int and UNKNOWN < number < pieces.size for number in numbers)
      assert pieces.decode(numbers) == ' '.join(text.split())
    assert pieces.encode('') == pieces.encode(' \t') == [] and pieces.decode([]) == ''

  def test_random_texts_come_back(self, pieces):
    draw = np.random.default_rng(0)
    letters = sorted(CHARACTERS | {' '})
    for length in draw.integers(0, 40, 300):
      text = ''.join(draw.choice(letters, length))
      assert pieces.decode(pieces.encode(text)) == ' '.join(text.split())

  def test_pieces_are_longer_than_characters(self, pieces):
    assert len(pieces.encode(TEXTS[1])) < len(TEXTS[1].replace(' ', ''))

  def test_unknown_characters(self, pieces):
    numbers = pieces.encode('Ein Ж Hund')
    assert numbers.count(UNKNOWN) == 1 and pieces.decode(numbers) == 'Ein <unk> Hund'

  def test_what_looks_like_a_mark_is_none(self, pieces, kind):
    for text in ('<s>', '</s>', '<pad>', '<unk>'):
      assert not {PADDING, START, END} & set(pieces.encode(text))
    known = Pieces.train([*TEXTS, *'<>/pk'], 200, kind)
    for text in ('<s>', '</s> a', 'a <pad> d', '<unk>'):
      assert UNKNOWN not in known.encode(text) and known.decode(known.encode(text)) == text

  def test_decoding_takes_no_notice_of_marks(self, pieces):
    numbers = pieces.encode(TEXTS[0])
    marked = np.array([START, *numbers[:2], PADDING, *numbers[2:], END, PADDING, PADDING], np.int32)
    assert pieces.decode(marked) == pieces.decode(iter(numbers)) == TEXTS[0]
    assert pieces.decode([START, END, PADDING]) == ''
    for number in (-1, pieces.size):
      with pytest.raises(IndexError):
        pieces.decode([number])

  def test_trains_the_same_bytes_in_silence(self, pieces, kind, capfd):
    again = Pieces.train(list(TEXTS), LEAST + 20, kind)
    assert again.model == pieces.model and Pieces(pieces.model).encode(TEXTS[0]) == pieces.encode(TEXTS[0])
    assert capfd.readouterr() == ('', '')

  def test_sizes(self, kind):
    assert Pieces.train(TEXTS, LEAST, kind).size == LEAST
    few = Pieces.train(TEXTS, 5000, kind)
    assert LEAST < few.size < 5000
    foreign = sentencepiece.SentencePieceProcessor(model_proto=few.model)
    assert foreign.get_piece_size() == few.size
    assert [foreign.id_to_piece(number) for number in range(4)] == ['<pad>', '<s>', '</s>', '<unk>']

  @pytest.mark.parametrize('size', [-1, 0, 4, LEAST - 1, 1_000_001, 10**12])
  def test_a_size_out_of_range(self, kind, size):
    message = error_of(Pieces.train, TEXTS, size, kind)
    assert f'--pieces {size}:' in message and f'from {LEAST} to 1000000' in message

  def test_the_kinds_are_two(self):
    """In the one a piece's score is its rank, in the other the logarithm of how probable it is."""
    texts = ['ab ab abc abcd'] * 5
    models = [Pieces.train(texts, 12, kind).model for kind in ('bpe', 'unigram')]
    bpe, unigram = (sentencepiece.SentencePieceProcessor(model_proto=model) for model in models)
    assert [bpe.get_score(number) for number in (4, 5, 6)] == [0, -1, -2]
    scores = [unigram.get_score(number) for number in range(4, unigram.get_piece_size())]
    assert all(score < 0 and score % 1 for score in scores)
    assert 'trigram' in error_of(Pieces.train, texts, 12, 'trigram')

  def test_no_texts(self, kind):
    for texts in ([], ['', ' \n']):
      assert 'empty' in error_of(Pieces.train, texts, 50, kind)

  def test_no_line_is_left_out(self, kind):
    """Neither long ones, nor those with a tab or sentencepiece's own sign for the unknown."""
    long = [' y' * 3000 + 'x', 'z' * 5000]
    known = Pieces.train([*long, 'p\tq', 'u\u2585v', 'a', '3' + ' w' * 100_000], 60, kind)
    assert UNKNOWN not in known.encode('xyxzpquva3w')

  def test_a_foreign_model(self):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=LEAST + 5, minloglevel=2
    )
    assert 'marks (-1, 1, 2, 0)' in error_of(Pieces, model.getvalue())
    for content in (b'', b'x', model.getvalue()[:100]):
      assert 'sentencepiece cannot read it' in error_of(Pieces, content)

  def test_without_the_package(self, monkeypatch, kind, pieces):
    content = dumped(pieces)
    monkeypatch.setitem(sys.modules, 'sentencepiece', None)
    assert 'pip install -e ".[text]"' in error_of(Pieces.train, TEXTS, 200, kind)
    assert 'pip install -e ".[text]"' in error_of(loaded, content)


class TestWords:
  def test_the_most_frequent_first_and_ties_by_code_points(self):
    words = Words.train(['b a  c', 'ä b\tZ', 'b c'], 8)
    assert words.words == ('b', 'c', 'Z', 'a') and words.size == 8
    assert words.encode('a  ä b c Z?') == [7, UNKNOWN, 4, 5, UNKNOWN]
    assert words.decode([START, 7, UNKNOWN, 4, 5, PADDING, END]) == 'a <unk> b c'
    assert words.encode('') == words.encode('\n') == [] and words.decode([]) == ''

  def test_fewer_words_than_asked(self):
    words = Words.train(iter(TEXTS), 50_000)
    assert words.size == 4 + len({word for text in TEXTS for word in text.split()})
    for text in TEXTS:
      numbers = words.encode(text)
      assert all(UNKNOWN < number < words.size for number in numbers)
      assert words.decode(np.array(numbers, np.int32)) == ' '.join(text.split())

  def test_words_that_look_like_marks(self):
    words = Words.train(['<pad> <s> </s> <unk>'], 20)
    numbers = words.encode('<pad> <s> </s> <unk> <mask>')
    assert sorted(numbers) == [UNKNOWN, 4, 5, 6, 7] and numbers[-1] == UNKNOWN
    assert words.decode(numbers) == '<pad> <s> </s> <unk> <unk>'

  @pytest.mark.parametrize('number', [-1, -5, 13])
  def test_numbers_out_of_range(self, number):
    with pytest.raises(IndexError):
      Words('abcdefghi').decode([number])

  def test_refuses(self):
    assert 'from 5' in error_of(Words.train, ['a'], 4)
    assert 'empty' in error_of(Words.train, ['', ' '], 10)


class TestFiles:
  def test_pieces_come_back(self, pieces):
    again = loaded(dumped(pieces))
    assert isinstance(again, Pieces) and (again.model, again.size) == (pieces.model, pieces.size)
    assert again.encode(TEXTS[0]) == pieces.encode(TEXTS[0]) and dumped(again) == dumped(pieces)

  def test_words_come_back(self):
    words = Words.train([*TEXTS, '<unk> "\\ \x00'], 30)
    again = loaded(dumped(words))
    assert isinstance(again, Words) and (again.words, again.size) == (words.words, 30)
    assert dumped(again) == dumped(words)

  def test_any_damage_is_seen(self, pieces):
    for content in (dumped(pieces), dumped(Words(['a', 'b']))):
      for place in range(0, len(content), max(1, len(content) // 50)):
        changed = bytearray(content)
        changed[place] ^= 1
        for damaged in (bytes(changed), content[:place], content[:place] + content[place + 1 :]):
          assert 'damaged' in error_of(loaded, damaged)
      assert 'damaged' in error_of(loaded, content + b'\n')

  @pytest.mark.parametrize('body', [b'[', b'{"a": 1}', b'["a", 1]', b'["a", "a"]', b'\xff', b'null'])
  def test_words_that_are_none(self, body):
    head = f'lmajax words {hashlib.sha256(body).hexdigest()}\n'
    assert 'damaged' in error_of(loaded, head.encode() + body)

  def test_the_wrong_kind(self, pieces):
    content = dumped(Words(['a'])).replace(b'words', b'pieces', 1)
    assert 'sentencepiece cannot read it' in error_of(loaded, content)
    assert 'damaged' in error_of(loaded, dumped(pieces).replace(b'pieces', b'words', 1))

  def test_digest_and_layout(self):
    assert digest(b'abc') == 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'
    head, body = dumped(Words(['ä', 'b'])).split(b'\n')
    assert head.decode() == f'lmajax words {digest(body)}' and json.loads(body) == ['ä', 'b']
    assert (vocabulary.PADDING, vocabulary.START, vocabulary.END, vocabulary.UNKNOWN) == (0, 1, 2, 3)
