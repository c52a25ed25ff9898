"""The same run over many machines: an agent on each of them drives the ordinary coordinator and its workers there.

clock.py    how the clocks of two machines stand to each other, and how sure that is
link.py     a connection between the driver and an agent, that each side can prove to be meant
agent.py    on a node: a crew of workers, told what to do over a link
node.py     an agent as the driver sees it
fleet.py    all of them: the place of a run (loadgen.local_run.Place)
gather.py   captures on their way to the driver
engine.py   Ray: where agents come from. The only module that imports it
"""
