"""Extensions that come with kcrash: `extend NAME` loads one."""
