"""A small set of prompts with verifiable instructions, for runs without IFEval's own file.

Everyday tasks of support and writing, each kind of instruction once or more, so that every verifier is at
work. Too few for fine differences: an interval of 40 prompts spans up to 30 percentage points.
"""

from collections.abc import Mapping
from typing import Any

Asked = tuple[str, Mapping[str, Any]]
"""An instruction's id with its arguments."""

PROMPTS: tuple[tuple[str, tuple[Asked, ...]], ...] = (
    (
        "Explain how to reset a forgotten password. Use at least 40 words and no commas.",
        (
            ("length_constraints:number_words", {"num_words": 40, "relation": "at least"}),
            ("punctuation:no_comma", {}),
        ),
    ),
    (
        "Tell a customer that a parcel is late in fewer than 25 words.",
        (("length_constraints:number_words", {"num_words": 25, "relation": "less than"}),),
    ),
    (
        "Describe a refund in fewer than 3 sentences, and use the word receipt.",
        (
            ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "less than"}),
            ("keywords:existence", {"keywords": ["receipt"]}),
        ),
    ),
    (
        "Write at least 4 sentences about keeping a laptop clean.",
        (("length_constraints:number_sentences", {"num_sentences": 4, "relation": "at least"}),),
    ),
    (
        "Give the opening hours of an imaginary shop as JSON and nothing else.",
        (("detectable_format:json_format", {}),),
    ),
    (
        'Return a JSON object that describes a cup of tea. It must mention "temperature".',
        (
            ("detectable_format:json_format", {}),
            ("keywords:existence", {"keywords": ["temperature"]}),
        ),
    ),
    (
        "List reasons to read the manual as exactly 3 bullet points that begin with a star: * like this.",
        (("detectable_format:number_bullet_lists", {"num_bullets": 3}),),
    ),
    (
        "List what to pack for a rainy day in exactly 5 bullet points in Markdown, in lower case only.",
        (
            ("detectable_format:number_bullet_lists", {"num_bullets": 5}),
            ("change_case:english_lowercase", {}),
        ),
    ),
    (
        "Write a short poem about a bus. Give it a title in double angle brackets, such as <<title>>.",
        (("detectable_format:title", {}),),
    ),
    (
        "Write a notice about a broken lift with a title in double angle brackets, all in capital letters.",
        (("detectable_format:title", {}), ("change_case:english_capital", {})),
    ),
    (
        "Write exactly 2 paragraphs about tea and part them by ***.",
        (("length_constraints:number_paragraphs", {"num_paragraphs": 2}),),
    ),
    (
        "Write exactly 3 paragraphs about trains, parted by ***, and never use the word late.",
        (
            ("length_constraints:number_paragraphs", {"num_paragraphs": 3}),
            ("keywords:forbidden_words", {"forbidden_words": ["late"]}),
        ),
    ),
    (
        "Write 2 paragraphs about gardens, parted by a blank line. The second begins with the word Later.",
        (
            (
                "length_constraints:nth_paragraph_first_word",
                {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "later"},
            ),
        ),
    ),
    (
        "Answer a complaint about noise without the words sorry and unfortunately.",
        (("keywords:forbidden_words", {"forbidden_words": ["sorry", "unfortunately"]}),),
    ),
    (
        "Recommend a walk. Use the word river at least 3 times.",
        (("keywords:frequency", {"keyword": "river", "frequency": 3, "relation": "at least"}),),
    ),
    (
        "Praise a colleague. Use the word great fewer than 2 times.",
        (("keywords:frequency", {"keyword": "great", "frequency": 2, "relation": "less than"}),),
    ),
    (
        "Write about zebras with the letter z at least 6 times.",
        (
            (
                "keywords:letter_frequency",
                {"letter": "z", "let_frequency": 6, "let_relation": "at least"},
            ),
        ),
    ),
    (
        "Invite a friend to dinner. Use the letter q fewer than 1 time.",
        (
            (
                "keywords:letter_frequency",
                {"letter": "q", "let_frequency": 1, "let_relation": "less than"},
            ),
        ),
    ),
    (
        "Draft a letter to a landlord with at least 3 placeholders in square brackets, such as [name].",
        (("detectable_content:number_placeholders", {"num_placeholders": 3}),),
    ),
    (
        "Draft an invoice reminder with at least 2 placeholders in square brackets and a postscript that "
        "begins with P.S.",
        (
            ("detectable_content:number_placeholders", {"num_placeholders": 2}),
            ("detectable_content:postscript", {"postscript_marker": "P.S."}),
        ),
    ),
    (
        "Thank a customer for waiting. End with a postscript that begins with P.S.",
        (("detectable_content:postscript", {"postscript_marker": "P.S."}),),
    ),
    (
        "Is the earth round? Answer with one of: My answer is yes. My answer is no. My answer is maybe.",
        (("detectable_format:constrained_response", {}),),
    ),
    (
        "Explain backups and highlight at least 2 parts with asterisks, *like this*.",
        (("detectable_format:number_highlighted_sections", {"num_highlights": 2}),),
    ),
    (
        "Write a guide to soup with at least 2 sections, marked Section 1, Section 2 and so on.",
        (("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 2}),),
    ),
    (
        "Give two different slogans for a bakery, and part them by ****** only.",
        (("combination:two_responses", {}),),
    ),
    (
        "Repeat this request word for word, then answer it: What is a good name for a cat?",
        (
            (
                "combination:repeat_prompt",
                {
                    "prompt_to_repeat": "Repeat this request word for word, then answer it: What is a good "
                    "name for a cat?"
                },
            ),
        ),
    ),
    (
        "Confirm an appointment. End with exactly this: We look forward to seeing you.",
        (("startend:end_checker", {"end_phrase": "We look forward to seeing you."}),),
    ),
    (
        "Say goodbye to a guest and end with the phrase: Is there anything else I can help with?",
        (("startend:end_checker", {"end_phrase": "Is there anything else I can help with?"}),),
    ),
    (
        "Invent a proverb, and put your whole answer in double quotation marks.",
        (("startend:quotation", {}),),
    ),
    (
        "Warn of a wet floor in capital letters only.",
        (("change_case:english_capital", {}),),
    ),
    (
        "Describe the sea in lower case letters only, in fewer than 30 words.",
        (
            ("change_case:english_lowercase", {}),
            ("length_constraints:number_words", {"num_words": 30, "relation": "less than"}),
        ),
    ),
    (
        "Announce a sale with at least 2 words in capital letters.",
        (
            (
                "change_case:capital_word_frequency",
                {"capital_frequency": 2, "capital_relation": "at least"},
            ),
        ),
    ),
    (
        "Announce a delay calmly: fewer than 2 words in capital letters.",
        (
            (
                "change_case:capital_word_frequency",
                {"capital_frequency": 2, "capital_relation": "less than"},
            ),
        ),
    ),
    ("Name four colours without using a comma.", (("punctuation:no_comma", {}),)),
    (
        "Explain in at least 3 sentences and without commas why plants need light.",
        (
            ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "at least"}),
            ("punctuation:no_comma", {}),
        ),
    ),
    (
        "Tell a joke about printers that has the words paper and queue.",
        (("keywords:existence", {"keywords": ["paper", "queue"]}),),
    ),
    (
        "Explain two-factor sign-in with the words phone and code, in fewer than 60 words.",
        (
            ("keywords:existence", {"keywords": ["phone", "code"]}),
            ("length_constraints:number_words", {"num_words": 60, "relation": "less than"}),
        ),
    ),
    (
        "Describe a bicycle without the words wheel and pedal.",
        (("keywords:forbidden_words", {"forbidden_words": ["wheel", "pedal"]}),),
    ),
    (
        "Write a product description of a lamp with at least 3 highlighted parts, *like this*, and end with "
        "the phrase: Order today.",
        (
            ("detectable_format:number_highlighted_sections", {"num_highlights": 3}),
            ("startend:end_checker", {"end_phrase": "Order today."}),
        ),
    ),
    (
        "Reply to a question about shipping in at least 50 words, in exactly 2 paragraphs parted by ***.",
        (
            ("length_constraints:number_words", {"num_words": 50, "relation": "at least"}),
            ("length_constraints:number_paragraphs", {"num_paragraphs": 2}),
        ),
    ),
)
"""Prompts, each with what it asks for."""
