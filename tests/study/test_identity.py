"""A step's identity: what changes it and what does not."""

import pytest
from studies import TINY, identities, put

from untaught.attest import digest


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return put(tmp_path_factory.mktemp("identity") / "study.yaml", TINY)


def moved(file, **changes):
    """Labels of the steps whose identity a change moves, among those that are there before and after."""
    before, after = identities(file), identities(file, **changes)
    return {label for label in before.keys() & after.keys() if before[label] != after[label]}


def about(file, *words):
    """Labels in which one of the words occurs."""
    return {label for label in identities(file) if any(word in label for word in words)}


@pytest.mark.parametrize(
    "changes",
    [{"title": "Another"}, {"workers": 2}, {"missing": 0.5}, {"arms__filtered__filters__0__use": "blocklist"}],
)
def test_what_changes_no_number_changes_no_identity(file, changes):
    assert identities(file, **changes) == identities(file)


@pytest.mark.parametrize("changes", [{"world__exposures": 3}, {"start__width": 64}, {"compute__threads": 2}])
def test_what_all_stands_on_changes_every_identity(file, changes):
    assert moved(file, **changes) == set(identities(file))


def test_a_method_changes_its_arm_only(file):
    assert moved(file, arms__rmu__unlearning__0__lr=0.5) == about(file, "rmu")
    assert moved(file, arms__rmu__unlearning__0__stop={"kl": 0.5}) == about(file, "rmu")


def test_a_filter_changes_what_was_trained_on_its_text_only(file):
    assert moved(file, arms__filtered__filters__0__distinct=2) == about(
        file, "filter for filtered", "for filtered", "on filtered"
    )


def test_training_changes_what_starts_from_it_too(file):
    assert moved(file, arms__untouched__training=[{"use": "pretrain", "lr": 0.5}]) == about(file, "untouched", "rmu")


def test_an_attack_changes_itself_and_what_is_asked_of_it(file):
    assert moved(file, attacks__1__bits=8) == about(file, "quantise")
    assert moved(file, attacks__0__budget__tokens=10_000) == set()  # other steps, under other labels
    assert about(file, "relearn") - set(identities(file, attacks__0__budget__tokens=10_000)) == about(file, "relearn")


def test_an_evaluation_changes_itself_only(file):
    assert moved(file, evaluations__1__length=64) == about(file, "perplexity")


def test_an_added_evaluation_arm_attack_or_seed_leaves_all_others_alone(file):
    before = identities(file)
    added = {
        "evaluations": [*TINY["evaluations"], {"use": "multiple_choice", "items": "benign"}],
        "attacks": [*TINY["attacks"], {"use": "benign_finetune", "budget": {"steps": 3}}],
        "seeds": [0, 1],
        "arms__more": {"from": "rmu", "unlearning": ["grad_diff"]},
    }
    for name, value in added.items():
        after = identities(file, **{name: value})
        assert before.items() < after.items(), name


def test_the_order_of_seeds_and_the_names_of_filtered_arms_do_not_matter(file, tmp_path):
    assert identities(file, seeds=[1, 0]) == identities(file, seeds=[0, 1])
    renamed = TINY | {"arms": {"other" if name == "filtered" else name: arm for name, arm in TINY["arms"].items()}}
    assert set(identities(put(tmp_path / "study.yaml", renamed)).values()) == set(identities(file).values())


CODE = '''
"""What it is."""

def double(x):
    """Twice x."""
    return 2 * x  # twice
'''


def test_a_digest_of_code_sees_code_and_not_words_about_it(tmp_path):
    def of(text):
        digest.of_code.cache_clear()
        return digest.of_code(put(tmp_path / "code.py", text))

    assert of(CODE) == of(CODE.replace("Twice x.", "It doubles.").replace("# twice", "").replace("What", "How"))
    assert of(CODE) == of(CODE.replace("return 2 * x", "return (2 *\n        x)"))
    assert of(CODE) != of(CODE.replace("2 * x", "3 * x"))
    assert of(CODE) != of(CODE.replace("double", "twice_over"))


def test_a_digest_of_code_sees_files_come_and_go(tmp_path):
    def of():
        digest.of_code.cache_clear()
        return digest.of_code(tmp_path)

    put(tmp_path / "a.py", CODE)
    alone = of()
    put(tmp_path / "below" / "b.py", "x = 1")
    both = of()
    put(tmp_path / "note.txt", "no code")
    assert alone != both == of()


def test_a_word_in_a_components_file_changes_nothing_but_its_code_does(tmp_path, file, monkeypatch):
    from untaught.core import shelves
    from untaught.study import provenance

    real = shelves.source("attacks", "quantise").read_text(encoding="utf-8")

    def with_file(text):
        other = put(tmp_path / "quantise.py", text)
        with monkeypatch.context() as patch:
            patch.setattr(provenance, "source", lambda s, n: other if n == "quantise" else shelves.source(s, n))
            provenance.code.cache_clear()
            digest.of_code.cache_clear()
            found = identities(file)
        provenance.code.cache_clear()
        return found

    before = with_file(real)
    assert with_file(real.replace('"""', '"""Says more. ', 1) + "\n# and more\n") == before
    other = with_file(real.replace("one < SAME", "one <= SAME"))
    assert {label for label in before if before[label] != other[label]} == about(file, "quantise")
