"""The nine questions that people ask about vanishing gradients, each answered by an experiment.

>>> from gradtrace import questions
>>> answers = questions.ask(seed=0)  # doctest: +SKIP
>>> print(answers[2])  # doctest: +SKIP
"""

from gradtrace.questions.answer import Answer
from gradtrace.questions.experiments import ask
from gradtrace.questions.page import render_html

__all__ = ["Answer", "ask", "render_html"]
