"""What a trusted fit says of its checks."""

from fit.verdict import Note, what_checks_found


def note(code: str) -> Note:
    return Note(code=code, severity="info", message="")


def test_a_fit_without_a_fault_says_so_and_one_with_faults_names_them():
    assert what_checks_found([]) == " and no check of it found a fault."
    assert what_checks_found([note("thinned")]) == " and no check of it found a fault."
    found = what_checks_found([note("trend"), note("misfit"), note("trend")])
    assert found.startswith("; what its checks found (misfit, trend)")
