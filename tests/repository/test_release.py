"""What GitHub, PyPI and those who cite read: versions that agree, forms that GitHub takes, and what is uploaded."""

import re
import shlex
import tomllib

import jax
import pytest
import yaml  # which flax needs

from tests import ROOT
from tests.distributions import MOST, RELATIVE, SDIST, WHEEL, faults, package

PYPROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))
PROJECT = PYPROJECT['project']
CITATION = yaml.safe_load((ROOT / 'CITATION.cff').read_text(encoding='utf-8'))
GITHUB = ROOT / '.github'
FORMS = ('bug', 'feature')
FIELDS = ('input', 'textarea', 'dropdown', 'checkboxes')


def read(path):
  return yaml.safe_load((GITHUB / path).read_text(encoding='utf-8'))


def form(name):
  return read(f'ISSUE_TEMPLATE/{name}.yml')


class TestMetadata:
  def test_versions_agree(self):
    """``tests/lmajax/test_versions.py`` compares the library's own with that of the metadata."""
    headings = re.findall(r'^## (\S+)', (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8'), re.MULTILINE)
    assert CITATION['version'] == headings[0] == PROJECT['version']

  def test_the_citation_is_whole_and_says_what_the_metadata_say(self):
    assert CITATION['cff-version'] == '1.2.0' and CITATION['message'] and CITATION['title'] == PROJECT['name']
    assert CITATION['license'] == PROJECT['license']
    assert CITATION['keywords'] == PROJECT['keywords']
    assert CITATION['authors'] == PROJECT['authors']
    assert CITATION['repository-code'] == PROJECT['urls']['Repository']

  def test_the_paper_can_be_found(self):
    (paper,) = CITATION['references']
    assert all(paper[name] for name in ('type', 'title', 'authors', 'year'))
    assert all({'family-names', 'given-names'} == set(author) for author in paper['authors'])
    assert re.fullmatch(r'10\.\d{4,}/\S+', paper['doi'])

  def test_no_dependency_has_an_upper_bound(self):
    extras = PROJECT['optional-dependencies'].values()
    for needed in (*PROJECT['dependencies'], *(each for extra in extras for each in extra)):
      assert not re.search('<|~=|==', needed), needed

  def test_pypi_shows_every_picture_and_link_of_the_readme(self):
    text = (ROOT / 'README.md').read_text(encoding='utf-8')
    for each in PYPROJECT['tool']['hatch']['metadata']['hooks']['fancy-pypi-readme']['substitutions']:
      text = re.sub(each['pattern'], each['replacement'], text)
    assert not RELATIVE.findall(text)
    for path in re.findall(r'lmajax/(?:blob/)?v\$HFPR_VERSION/([^)#\s]+)', text):
      assert (ROOT / path).exists(), path


class TestForms:
  @pytest.mark.parametrize('name', FORMS)
  def test_github_takes_it(self, name):
    found = form(name)
    assert found['name'] and found['description']
    fields = [each for each in found['body'] if each['type'] != 'markdown']
    assert len({field['id'] for field in fields}) == len(fields) > 1
    for field in fields:
      assert field['type'] in FIELDS and field['attributes']['label']
      assert re.fullmatch(r'[\w-]+', field['id'])
    assert any(field['validations']['required'] for field in fields)

  def test_a_bug_is_told_with_all_it_takes(self):
    required = [each['id'] for each in form('bug')['body'] if each.get('validations', {}).get('required')]
    assert required == ['done', 'expected', 'came', 'versions']

  def test_the_command_prints_the_versions(self, capsys):
    (versions,) = [each for each in form('bug')['body'] if each.get('id') == 'versions']
    python, option, code = shlex.split(re.findall('`(.*)`', versions['attributes']['description'])[0])
    assert (python, option) == ('python', '-c')
    exec(compile(code, 'bug.yml', 'exec'), {})
    said = capsys.readouterr().out
    assert f'jax {jax.__version__} ' in said and f'lmajax {PROJECT["version"]} on ' in said

  def test_weaknesses_are_reported_in_private(self):
    (link,) = form('config')['contact_links']
    assert set(link) == {'name', 'url', 'about'}
    assert link['url'] == f'{PROJECT["urls"]["Repository"]}/security/advisories/new'
    for path in ('SECURITY.md', '.github/ISSUE_TEMPLATE/bug.yml'):
      assert link['url'] in (ROOT / path).read_text(encoding='utf-8')


class TestWorkflows:
  def test_every_change_must_pass_what_ci_runs(self):
    found = read('workflows/ci.yml')
    assert {'push', 'pull_request'} == set(found[True])  # YAML's on
    assert any(step.get('run') == '.ci/run' for step in found['jobs']['everything']['steps'])

  def test_pythons_are_those_of_the_metadata(self):
    versions = re.findall(r'Python :: (3\.\d+)', ' '.join(PROJECT['classifiers']))
    jobs = read('workflows/ci.yml')['jobs']
    lowest = [step['with']['python-version'] for step in jobs['everything']['steps'] if 'with' in step]
    assert [*lowest, *jobs['newer']['strategy']['matrix']['python']] == versions
    assert PROJECT['requires-python'] == f'>={versions[0]}'

  def test_only_what_uploads_may_speak_for_the_project(self):
    found = read('workflows/release.yml')
    assert found[True] == {'push': {'tags': ['v*']}} and found['permissions'] == {'contents': 'read'}
    assert 'permissions' not in found['jobs']['build']
    publish = found['jobs']['publish']
    assert publish['permissions'] == {'id-token': 'write'} and publish['environment'] == 'pypi'
    assert publish['needs'] == 'build' and not any('run' in step for step in publish['steps'])

  @pytest.mark.parametrize('path', ['.ci/run', '.github/workflows/release.yml'])
  def test_what_is_uploaded_is_judged(self, path):
    text = (ROOT / path).read_text(encoding='utf-8')
    assert all(step in text for step in ('python -m build', 'twine check --strict', 'python -m tests.distributions'))


class TestDistributions:
  wheel = (*sorted(package()), 'lmajax-1.dist-info/METADATA', 'lmajax-1.dist-info/licenses/LICENSE')
  sdist = (*sorted(package()), 'LICENSE', 'PKG-INFO', 'pyproject.toml')

  def test_the_package_has_its_marker_of_types_and_its_data(self):
    assert {'lmajax/__init__.py', 'lmajax/py.typed', 'lmajax/training/h100.txtpb'} < package()

  @pytest.mark.parametrize('names, allowed', [(wheel, WHEEL), (sdist, SDIST)])
  def test_one_as_it_should_be_has_no_faults(self, names, allowed):
    assert faults(names, allowed, 'a [link](https://pypi.org) and [another](#here)', MOST) == []

  @pytest.mark.parametrize('name', ['results/digits/results.json', 'train/__main__.py', 'tests/__init__.py', '.env'])
  def test_what_does_not_belong_there_is_named(self, name):
    assert faults([*self.wheel, name], WHEEL, '', 0) == [f'{name} should not be there']
    assert faults([*self.sdist, name], SDIST, '', 0) == [f'{name} should not be there']

  @pytest.mark.parametrize('name', ['lmajax/py.typed', 'lmajax/training/h100.txtpb', 'LICENSE'])
  def test_what_is_missing_is_named(self, name):
    assert faults([each for each in self.sdist if each != name], SDIST, '', 0) == [f'{name} is missing']

  def test_links_that_lead_nowhere_and_too_many_bytes_are_named(self):
    found = faults(self.sdist, SDIST, '![curves](results/digits/curves.png)', MOST + 1)
    assert found == [
      '](results/digits/curves.png) leads nowhere on PyPI',
      f'{MOST + 1:,} bytes, and {MOST:,} are the most',
    ]
