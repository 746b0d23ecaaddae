"""How many users, or requests a second, a server carries within its objectives, and how sure that is.

Everything here but play.py, files.py and resume.py is pure: no clock, no socket, no file. A caller plays what is
chosen and hands back what came of it:

    objectives = objectives_of(texts, scenario.slo, scenario=name)          objective.py    texts to data, or InputError
    check_streamed(objectives, scenario)
    settings = SearchSettings(objectives=objectives, budget_s=480)          search.py       what is asked
    state = SearchState()                                                                   what was played
    while isinstance(step := next_step(state, settings), NextVisit):        choose.py       a visit, or the end
        tally = VisitTally(objectives, load, slo, workers)                  visit.py        takes records as they end
        looks = VisitLooks(state, settings, step)                           choose.py
        ... play step.level, with step.burst requests at once in front of an open loop; as each record comes:
            tally.take(record)
            if looks.should_stop(tally.visit(level=…, label=…, seconds=…)): end the stage
        state = state.with_visit(visit_data_of(stage_data, settings).visit) visit_data.py   whether it counts
    answer = answer_of(visits, settings, step.reason)                       answer.py       a model of capacity.json
    forecasts = forecasts_of(visits, settings, ForecastRequest((30,), 200))  forecast.py

To resume or to show a search again, make each `VisitData` from the stages of its run folder; nothing else is needed.
`tally.counted_at_most` tells cheaply whether a look can be due.
"""
